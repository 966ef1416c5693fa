"""The one core of the process: a signal after networks were let go in another thread."""

import subprocess
import sys
import threading

import openvino as ov

from detector.runtimes.compiled import core

LET_GO_ELSEWHERE = """
import os, signal, threading
from detector.runtimes.openvino import OpenVinoClassifier
from detector.model import find_model

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
networks = [OpenVinoClassifier(find_model("inception_v3@75"))]
thread = threading.Thread(target=networks.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
print("alive")
"""


def test_a_signal_arrives_after_a_network_was_let_go_in_another_thread():
    """With a core of its own, a network takes the signal stack of the main thread along, and the signal is the end."""
    found = subprocess.run([sys.executable, "-c", LET_GO_ELSEWHERE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.split()) == (0, ["handled", "alive"]), found.stderr


def test_threads_share_one_core():
    found: list[ov.Core] = []
    threads = [threading.Thread(target=lambda: found.append(core())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(one is core() for one in found)
