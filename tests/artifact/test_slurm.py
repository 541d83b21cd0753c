"""The toy project through a real one-node Slurm, installed and started here; needs root and SHEAF_TEST_SLURM=1."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_project import Toy

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

CONF = """
ClusterName=toy
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
MinJobAge=300
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
NodeName={host} CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=toy Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def install() -> None:
    if shutil.which("slurmctld") and shutil.which("munged"):
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ["--no-install-recommends", "slurm-wlm", "munge"]
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", *packages]):
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot install Slurm: {done.stderr.strip().splitlines()[-1:]}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a running one-node Slurm without accounting; its daemons are ended afterwards."""
    if os.environ.get("SHEAF_TEST_SLURM") != "1":
        pytest.skip("SHEAF_TEST_SLURM=1 is not set")
    if os.getuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("installing and starting Slurm needs root on Debian or Ubuntu")
    install()
    place = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (place / name).mkdir()
    (place / "munge.key").write_bytes(os.urandom(1024))
    (place / "munge.key").chmod(0o600)
    conf = Path("/etc/slurm/slurm.conf")  # where every job looks; the executor clears SLURM_CONF from its environment
    if conf.exists():
        pytest.skip("this machine has a Slurm of its own")
    memory = max(4000, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 500)
    host = socket.gethostname().partition(".")[0]
    conf.write_text(CONF.format(host=host, place=place, cpus=os.cpu_count(), memory=memory))
    env: dict[str, str] = {}
    parts = {name: f"--{name}-file={place}/munge.{name}" for name in ("key", "pid", "log", "seed")}
    commands = [
        ["munged", "--foreground", "--force", f"--socket={place}/munge.socket", *parts.values()],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    ]
    daemons = []
    try:
        for command in commands:
            with (place / f"{command[0]}.out").open("w") as out:
                daemons.append(subprocess.Popen(command, env={**os.environ, **env}, stdout=out, stderr=out))
            time.sleep(1)
        end = time.monotonic() + 60
        while "idle" not in (state := _sinfo(env)):
            logs = {f.name: f.read_text()[-500:] for f in [*place.glob("*.log"), *place.glob("*.out")]}
            assert time.monotonic() < end, f"the node did not come up: {state!r} {logs}"
            time.sleep(1)
        yield env
    finally:
        conf.unlink(missing_ok=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _sinfo(env: dict[str, str]) -> str:
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env={**os.environ, **env}, capture_output=True, text=True, timeout=30)
    return done.stdout


def test_notebooks_run_as_slurm_jobs(toy: Toy, slurm: dict[str, str]) -> None:
    done = toy.sheaf("reproduce", "--profile", "smoke", "--executor", "slurm", "--jobs", "2", timeout=300, **slurm)
    logs = "\n".join(p.read_text(errors="replace")[-3000:] for p in (toy.root / ".sheaf" / "logs").rglob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert "SLURM run ID" in (toy.root / ".sheaf" / "logs" / "snakemake.log").read_text()
    assert toy.done("toy_a", "02_second").is_file()
    again = toy.sheaf("reproduce", "--profile", "smoke", "--executor", "slurm", **slurm)
    assert "nothing to run" in again.stdout


def test_ctrl_c_cancels_the_jobs_and_a_failure_is_shown(toy: Toy, slurm: dict[str, str]) -> None:
    toy.notebook("toy_a", "01_first", "raise RuntimeError('on the node')")
    done = toy.sheaf("reproduce", "--profile", "smoke", "--executor", "slurm", "toy_a", timeout=300, **slurm)
    assert done.returncode == 1
    assert "raised RuntimeError: on the node" in done.stdout
    toy.good("toy_b", "01_only", "import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(600)")
    launcher = toy.start("reproduce", "--profile", "smoke", "--executor", "slurm", "toy_b", **slurm)
    toy.wait_for(toy.root / "notebooks" / "toy_b" / "started", 120)
    launcher.terminate()
    out, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 143, out
    end = time.monotonic() + 60
    while _jobs(slurm):
        assert time.monotonic() < end, "jobs were left on the cluster"
        time.sleep(1)


def _jobs(env: dict[str, str]) -> str:
    command = ["squeue", "-h", "-t", "PD,R,CG", "-o", "%i %T"]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=30).stdout.strip()


def test_the_profile_ships_with_the_package() -> None:
    import sheaf.artifact

    assert (Path(sheaf.artifact.__file__).parent / "profiles" / "slurm" / "profile.yaml").is_file()
