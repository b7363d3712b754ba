"""Rows of tensors, copied to one place."""

from torch import Tensor


class RowBuffer:
    """Collects rows in one tensor that doubles when it is full.

    Without copies, thousands of small tensors between the network's large ones would keep the
    allocator from reusing memory. Unused room takes no memory.

    Args:
        capacity: Initial room, rows.

    Example:
        >>> import torch
        >>> buffer = RowBuffer()
        >>> buffer.append(torch.zeros(2, 3))
        >>> buffer.append(torch.ones(1, 3))
        >>> len(buffer), buffer.rows.shape
        (3, torch.Size([3, 3]))
    """

    def __init__(self, capacity: int = 0) -> None:
        self._capacity = capacity
        self._held: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Tensor | None:
        """The rows, without a copy; None before the first `append`."""
        return None if self._held is None else self._held[: self._count]

    def append(self, rows: Tensor) -> None:
        """Append copies of rows with the first ones' shape and dtype."""
        count = self._count + len(rows)
        if self._held is None or count > len(self._held):
            room = max(count, 2 * self._count, self._capacity)
            larger = rows.new_empty((room, *rows.shape[1:]))
            if self._held is not None:
                larger[: self._count] = self._held[: self._count]
            self._held = larger
        self._held[self._count : count] = rows
        self._count = count

    def cut(self, count: int) -> None:
        """Keep only the first `count` rows."""
        self._count = min(count, self._count)

    def take(self) -> Tensor | None:
        """Return the rows without unused room, and start again."""
        held, rows = self._held, self.rows
        self._held, self._count = None, 0
        if rows is None or held is None or len(rows) == len(held):
            return rows
        return rows.clone()
