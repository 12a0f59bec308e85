"""Runs the steps of CI recipes with bash in a scratch repository, as GitHub's and GitLab's runners would.

`edgekit` is the one of this checkout. What would change the machine (apt-get, pip, sudo) is only noted; `docker exec` runs its
command here. An expression or a key that is not known here is an error: then the recipe has outgrown this runner.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from harness import ROOT

NOTED = ("apt-get", "pip", "sudo")
# edgekit's own apt-get, with a configuration of its own, changes nothing here: the first use of a device fetches its packages.
OWN = '[ -z "${APT_CONFIG-}" ] || exec env PATH="${PATH#*:}" "${0##*/}" "$@"\n'
READ = '[ "$1" != tee ] || cat > /dev/null\n'  # whoever writes into a pipe that nobody reads may end by SIGPIPE
DOCKER = """\
[ "$1" = exec ] || { printf '%s\\n' "docker $*" >> "$NOTES"; exit 0; }
shift
while [ "${1#--}" != "$1" ]; do shift 2; done
shift
exec "$@"
"""
TIMEOUT_S = 600
STEP_KEYS = {"name", "id", "if", "uses", "with", "run"}
JOB_KEYS = {"runs-on", "container", "timeout-minutes", "env", "steps"}
GITLAB_KEYS = {
    "image", "timeout", "variables", "cache", "before_script", "script", "after_script", "artifacts",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A step that was run (or an action that was asked for, with `given`), and what it came to."""

    name: str
    rc: int = 0
    said: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


class Runner:
    """A repository and the environment of its jobs."""

    def __init__(self, repo: Path, work: Path, environment: Mapping[str, str]) -> None:
        self.repo, self.work = repo, work
        self.notes = work / "notes"
        self.summary = work / "summary.md"
        folder = work / "bin"
        folder.mkdir(parents=True)
        self._program(folder / "edgekit", f'PYTHONPATH={ROOT} exec {sys.executable} -P -m edgekit "$@"\n')
        for name in NOTED:
            self._program(folder / name, OWN + READ + 'printf \'%s\\n\' "${0##*/} $*" >> "$NOTES"\n')
        self._program(folder / "docker", DOCKER)
        self.environment = {
            **os.environ,
            **environment,
            "NOTES": str(self.notes),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        for name in [name for name in self.environment if name.startswith("GIT_")]:
            del self.environment[name]
        self.git("init", "-q", "-b", "main")

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/bash\n{text}", "utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, argv: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in the repository, stdout and stderr together."""
        return subprocess.run(
            argv,
            cwd=self.repo,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )

    def git(self, *args: str) -> subprocess.CompletedProcess[str]:
        """git, as somebody, without anybody's configuration."""
        name = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        return self.run(["git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.invalid", *args], **name)

    def edgekit(self, *args: object) -> str:
        """The command line, which must succeed."""
        done = self.run(["edgekit", *map(str, args)])
        assert done.returncode == 0, done.stdout
        return done.stdout

    def shell(self, script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A script in bash."""
        return self.run(["bash", "--noprofile", "--norc", *options, "-c", script], **environment)

    def github(self, path: str) -> dict[str, Step]:
        """The only job of a workflow: its steps by name, those that were left out absent."""
        whole = yaml.safe_load((self.repo / path).read_text("utf-8"))
        assert whole["defaults"] == {"run": {"shell": "bash"}}
        (job,) = whole["jobs"].values()
        assert set(job) <= JOB_KEYS, set(job) - JOB_KEYS
        self.summary.write_text("", "utf-8")
        outputs: dict[str, str] = {}
        said = {**whole.get("env", {}), **job.get("env", {})}
        environment = {name: self.evaluated(value, outputs) for name, value in said.items()}
        environment |= {"GITHUB_STEP_SUMMARY": str(self.summary), "GITHUB_OUTPUT": str(self.work / "output")}
        environment.pop("EDGEKIT_CACHE_DIR", None)  # the tests have their own
        ran: dict[str, Step] = {}
        for step in job["steps"]:
            assert set(step) <= STEP_KEYS, set(step) - STEP_KEYS
            assert step.get("if", "${{ !cancelled() }}") == "${{ !cancelled() }}"
            failed = any(one.rc for one in ran.values())
            if failed and "if" not in step:
                continue
            name = step.get("name", step.get("uses"))
            given = {key: self.evaluated(value, outputs) for key, value in step.get("with", {}).items()}
            script = step.get("run", "")
            if step.get("uses", "").startswith("reactivecircus/"):
                script = "\n".join(f"sh -c {shlex.quote(line)}" for line in given["script"].splitlines())
            (self.work / "output").write_text("", "utf-8")
            done = self.shell(script, "-eo", "pipefail", **environment)
            for line in (self.work / "output").read_text("utf-8").splitlines():
                key, _, value = line.partition("=")
                outputs[f"steps.{step['id']}.outputs.{key}"] = value
            ran[name] = Step(name, done.returncode, done.stdout, given)
        return ran

    def evaluated(self, value: Any, outputs: Mapping[str, str]) -> Any:
        """A value with its expressions filled in."""
        if not isinstance(value, str):
            return value
        known = {"vars.PIP_EXTRA_INDEX_URL": "", "runner.arch": "X64", **outputs}

        def of(match: re.Match[str]) -> str:
            hashed = re.fullmatch(r"hashFiles\('((?:[^']|'')+)'\)", match[1])
            if hashed:
                return "hash-of-" + hashed[1].replace("''", "'") * (self.repo / hashed[1].replace("''", "'")).exists()
            return known[match[1]]

        return re.sub(r"\$\{\{ (.*?) \}\}", of, value)

    def gitlab(self, path: str) -> tuple[Step, Step, dict[str, Any]]:
        """The only job of a pipeline: its script, what comes after it, and the whole job."""
        ((_, job),) = yaml.safe_load((self.repo / path).read_text("utf-8")).items()
        assert set(job) <= GITLAB_KEYS, set(job) - GITLAB_KEYS
        given = {name: value.replace("$CI_PROJECT_DIR", str(self.repo)) for name, value in job["variables"].items()}
        del given["EDGEKIT_CACHE_DIR"]  # the tests have their own
        done = self.shell("\n".join([*job["before_script"], *job["script"]]), "-eo", "pipefail", **given)
        after = self.shell("\n".join(job["after_script"]), "-eo", "pipefail", **given)
        return (
            Step("script", done.returncode, done.stdout),
            Step("after_script", after.returncode, after.stdout),
            job,
        )

    def noted(self) -> list[str]:
        """The commands that would have changed the machine, and are now forgotten."""
        lines = self.notes.read_text("utf-8").splitlines() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return lines
