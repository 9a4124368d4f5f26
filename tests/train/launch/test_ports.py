"""Processes of a job meet at a port that nobody else is given before they take it."""

import socket
from pathlib import Path

import pytest

from kinmass.train.launch import ports


def test_a_port_is_free_and_none_that_the_kernel_hands_out():
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = {ports.free_port() for _ in range(100)}
    assert len(found) > 80
    assert all(1024 <= port < first_of_kernel for port in found)
    with socket.socket() as server:
        server.bind(("127.0.0.1", found.pop()))
        server.listen()


def test_one_that_somebody_listens_on_is_not_taken(monkeypatch, tmp_path):
    with socket.socket() as taken:
        port = ports.free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        (tmp_path / "range").write_text(f"{max(port + 1, 2048)} 60999\n")
        monkeypatch.setattr(ports, "_RANGE_FILE", tmp_path / "range")
        monkeypatch.setattr(ports, "_CANDIDATES", 1)
        with pytest.raises(OSError, match=f"no free port below {port + 1} on this machine"):
            ports.free_port()
    assert ports.free_port() == port
