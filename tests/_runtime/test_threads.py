import threading

import pytest
import torch

from vggish_hf._runtime.threads import TorchThreads, one_torch_thread_each


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_the_pool_has_one_torch_thread_in_each_and_all_others_stay_as_they_are():
    with TorchThreads(2) as threads:
        barrier = threading.Barrier(2)

        def look():
            barrier.wait(10)  # both threads of the pool are here
            return threading.get_ident(), torch.get_num_threads()

        found = [future.result() for future in [threads.submit(look) for _ in range(2)]]
        assert len({ident for ident, _ in found}) == 2
        assert [count for _, count in found] == [1, 1]
        assert torch.get_num_threads() == 3
        assert threads_of_a_new_thread() == 3
    assert torch.get_num_threads() == 3


def test_the_threads_end_with_the_block():
    before = threading.active_count()
    with TorchThreads(3):
        assert threading.active_count() == before + 3
    assert threading.active_count() == before


def test_work_that_has_not_begun_is_dropped_when_the_block_ends():
    running, go_on = threading.Event(), threading.Event()

    def first():
        running.set()
        go_on.wait(10)

    with TorchThreads(1) as threads:
        threads.submit(first)
        second = threads.submit(int)
        running.wait(10)
        # The block ends while the first still runs, so that the second has not begun.
        threading.Timer(0.2, go_on.set).start()
    assert second.cancelled()


def test_new_threads_that_start_others_at_once_leave_no_trace():
    def run():
        with TorchThreads(2):
            pass

    for _ in range(5):
        threads = [threading.Thread(target=run) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert threads_of_a_new_thread() == 3


def test_one_block_begins_after_the_other():
    inside = threading.Event()
    found = []

    def run():
        with one_torch_thread_each(0):
            inside.set()
        found.append(torch.get_num_threads())

    with one_torch_thread_each(1) as begin:
        lowered = threading.Thread(target=begin)
        lowered.start()
        other = threading.Thread(target=run)
        other.start()
        assert not inside.wait(0.1)
    other.join(10)
    lowered.join(10)
    assert found == [3]


def test_a_number_of_this_threads_own_stays():
    setter = threading.Thread(target=torch.set_num_threads, args=(2,))
    setter.start()
    setter.join()
    assert torch.get_num_threads() == 3  # of this thread; others begin with 2
    with TorchThreads(1):
        pass
    assert torch.get_num_threads() == 3
    assert threads_of_a_new_thread() == 2


def test_the_block_can_end_in_one_of_its_threads():
    # As where the garbage collector closes a generator that holds the block.
    threads = TorchThreads(2)
    threads.submit(threads.__exit__, None, None, None).result(10)
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)


def test_a_block_that_fails_lets_the_threads_go():
    began = []

    def run(begin):
        began.append(begin())

    def start():
        with one_torch_thread_each(2) as begin:
            threads.append(threading.Thread(target=run, args=(begin,)))
            threads[0].start()
            raise OSError("no more threads")

    threads = []
    with pytest.raises(OSError, match="no more threads"):
        start()
    threads[0].join(10)
    assert began == [False]
    assert torch.get_num_threads() == 3
