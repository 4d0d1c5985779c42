"""A job over two hosts, here network namespaces of one machine, whose link is cut."""

import os
import signal
import subprocess
import sys
import time
import unittest

from program import MPIRUN, PROGRAM, ProgramTest, messages, random_matrix

NETWORK = "10.213.71."


def ip(*words):
    """True if it was done."""
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


class TwoHosts(ProgramTest):
    def setUp(self):
        super().setUp()
        self.names = [f"rankfold{os.getpid()}{side}" for side in "ab"]
        self.links = [f"rf{os.getpid()}{side}" for side in "ab"]
        for name in self.names:
            self.addCleanup(ip, "netns", "del", name)
        a, b = self.names
        if not (ip("netns", "add", a) and ip("netns", "add", b)
                and ip("link", "add", self.links[0], "netns", a, "type", "veth", "peer", "name",
                       self.links[1], "netns", b)):
            print("no right to make network namespaces (or no ip): this test did not run")
            sys.exit(77)
        for number, (name, link) in enumerate(zip(self.names, self.links), 1):
            self.assertTrue(ip("-n", name, "addr", "add", f"{NETWORK}{number}/24", "dev", link))
            self.assertTrue(ip("-n", name, "link", "set", "lo", "up"))
            self.assertTrue(ip("-n", name, "link", "set", link, "up"))
        agent = self.folder / "agent"  # what mpirun calls instead of ssh
        agent.write_text(f'#!/bin/sh\nshift\nexec ip netns exec {b} unshare --uts '
                         f'sh -c "hostname {b}; $*"\n')
        agent.chmod(0o755)

    def start(self, *arguments):
        """A job of two ranks, one on each host."""
        network = NETWORK + "0/24"
        mpirun = [MPIRUN, "-n", "2", "--host", f"{NETWORK}1:1,{NETWORK}2:1", "--mca", "plm", "rsh",
                  "--mca", "plm_rsh_agent", str(self.folder / "agent"), "--mca", "routed", "direct",
                  "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", network,
                  "--mca", "oob_tcp_if_include", network, PROGRAM, *map(str, arguments)]
        job = subprocess.Popen(["ip", "netns", "exec", self.names[0], "unshare", "--uts", "sh", "-c",
                                f'hostname {self.names[0]}; exec "$@"', "sh", *mpirun],
                               cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
        self.addCleanup(lambda: [os.kill(int(process), signal.SIGKILL)
                                 for process in self.processes()])
        return job

    def processes(self):
        """Of both hosts."""
        return [process for name in self.names for process in subprocess.run(
            ["ip", "netns", "pids", name], text=True, capture_output=True,
            check=True).stdout.split()]

    def test_a_cut_link_ends_all_processes_and_names_host_ranks_and_phase(self):
        self.write_matrix("a.h5", random_matrix(1000, 200))
        job = self.start("als", "a.h5", "--factors", 16, "--sweeps", 1000000, "--out", "f.h5",
                         "--checkpoint", "kept", "--every", "20sweeps", "--watchdog", 2)
        deadline = time.monotonic() + 30
        while not list(self.folder.glob("kept/step-*.h5")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)  # until the hosts have heard of each other
        self.assertIsNone(job.poll())
        self.assertTrue(ip("-n", self.names[1], "link", "set", self.links[1], "down"))
        cut = time.monotonic()
        stderr = job.communicate(timeout=60)[1]
        while self.processes() and time.monotonic() - cut < 15:
            time.sleep(0.1)
        self.assertEqual(self.processes(), [])
        self.assertLess(time.monotonic() - cut, 15)
        self.assertNotEqual(job.returncode, 0)
        said = messages(stderr)
        self.assertEqual(len(said), 1, stderr)
        self.assertRegex(said[0], rf"host {self.names[1]} \(rank 1\) has not been heard of for 2 s, "
                                  r'last in the phase "\w+')


if __name__ == "__main__":
    unittest.main()
