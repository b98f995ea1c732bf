"""Every isolator of the registry passes the suite that is shipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from fixtures import leaks
from mesocosm import host_steps
from mesocosm.isolators import registry
from mesocosm.isolators.conformance import IsolatorConformance
from mesocosm.model import (
    CapabilityRequest,
    ContainerConfig,
    ContainerID,
    HostPathMount,
    ImageMount,
    NamespaceModes,
    Resources,
    Rlimit,
    TmpfsMount,
)

MEBIBYTE = 1 << 20


class Suite(IsolatorConformance):
    """The suite below this run's own names."""

    apply = staticmethod(host_steps.apply)

    def parent(self) -> str:
        return leaks.RUN


def request(**config: object) -> ContainerConfig:
    return ContainerConfig(image="host", command=("true",), **config)  # type: ignore[arg-type]


class TestPosixFilesystem(Suite):
    isolator = registry.load("filesystem/posix")
    config = ContainerConfig(command=("true",))
    refused = ContainerConfig(command=("true",), read_only=True)


class TestLinuxFilesystem(Suite):
    isolator = registry.load("filesystem/linux")
    config = request(mounts=(TmpfsMount(target="/dev/shm"),), read_only=True)
    refused = ContainerConfig(command=("true",))


class TestRuntime(Suite):
    isolator = registry.load("image/runtime")
    config = request(env=("A=1",), user="1:2", workdir="/tmp", init=True)
    refused = ContainerConfig(image="host")


class TestCapabilities(Suite):
    isolator = registry.load("linux/capabilities")
    config = request(capabilities=CapabilityRequest(drop=("ALL",), add=("CHOWN",)))
    refused = request(capabilities=CapabilityRequest(add=("CHOWM",)))


class TestNoNewPrivileges(Suite):
    isolator = registry.load("linux/nnp")


class TestSeccomp(Suite):
    isolator = registry.load("linux/seccomp")
    refused = request(seccomp="")


class TestRlimits(Suite):
    isolator = registry.load("linux/rlimits")
    config = request(rlimits=(Rlimit("nofile", 64, 64),))
    refused = request(rlimits=(Rlimit("nofile", 65, 64),))


class TestPidNamespace(Suite):
    isolator = registry.load("namespaces/pid")


class TestIpcNamespace(Suite):
    isolator = registry.load("namespaces/ipc")
    refused = request(namespaces=NamespaceModes(ipc="host"), shm_size=1)


class TestUtsNamespace(Suite):
    isolator = registry.load("namespaces/uts")
    config = request(hostname="name")
    refused = request(namespaces=NamespaceModes(uts="host"), hostname="name")


class TestNetNamespace(Suite):
    isolator = registry.load("namespaces/net")


class TestCgroupNamespace(Suite):
    isolator = registry.load("namespaces/cgroup")


class TestHostPath(Suite):
    isolator = registry.load("volume/host_path")
    config = request(
        mounts=(HostPathMount(source="/etc", target="/a", read_only=True), TmpfsMount(target="/a/b"))
    )
    refused = request(mounts=(TmpfsMount(target="/proc"),))


class TestImageVolumes(Suite):
    isolator = registry.load("volume/image")
    config = request(mounts=(ImageMount(source="debian", target="/a"),))
    refused = request(mounts=(ImageMount(source="debian", target="/proc"),))


class TestCpu(Suite):
    isolator = registry.load("cgroups/cpu")
    config = request(resources=Resources(cpus=0.5))
    updates = (Resources(cpus=0.5, cpu_shares=100), Resources(cpus=1.5, cpu_shares=2000))

    def refusal(self, container: ContainerID) -> Resources | None:
        above = os.path.dirname(self.host.cgroups.of(str(container), "cpu").path)
        if self.host.cgroups.version("cpu") == 2:
            return None
        with open(f"{above}/cpu.cfs_quota_us", "w") as file:
            file.write("100000")
        return Resources(cpus=4, cpu_shares=3000)


class TestMemory(Suite):
    isolator = registry.load("cgroups/mem")
    config = request(resources=Resources(memory=64 * MEBIBYTE))
    updates = (
        Resources(memory=64 * MEBIBYTE, memory_swap=64 * MEBIBYTE),
        Resources(memory=256 * MEBIBYTE, memory_swap=512 * MEBIBYTE),
    )


class TestPids(Suite):
    isolator = registry.load("cgroups/pids")
    config = request(resources=Resources(pids=8))
    updates = (Resources(pids=8), Resources(pids=64))


class TestDevices(Suite):
    isolator = registry.load("cgroups/devices")


def _suites() -> Iterator[type[Suite]]:
    return (
        found
        for found in vars(sys.modules[__name__]).values()
        if isinstance(found, type) and issubclass(found, Suite) and found is not Suite
    )


@pytest.mark.parametrize("name", registry.ORDER)
def test_no_isolator_is_left_out(name: str) -> None:
    assert name in {suite.isolator.name for suite in _suites()}
