"""A lock whose file is gone after whatever ends its block."""

import os
import signal
import time
from threading import Thread

import pytest

from vggish_hf._runtime.files import locked


def test_ctrl_c_as_soon_as_the_file_of_a_lock_is_there_leaves_none(tmp_path):
    path = tmp_path / ".lock"

    def interrupt():
        while not path.exists():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(50):
        thread = Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt), locked(path, tmp_path):
            time.sleep(60)
        thread.join()
        assert not path.exists()
