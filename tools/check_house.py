"""
Fail when a tracked file holds what this repository must never hold.

That is: a secret, a path of somebody's own machine, the name of a package registry's host, a module that is too
long or named after no subject. A line that must look like one of the first three ends in a comment that names which,
`house: allow(secret)`, and nothing else is allowed by it.

Run as `python -m tools.check_house`; prints one finding a line and exits 1 if there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LINES_MAX = 500
"""Of a module in libs/ or services/; a longer one has two subjects."""

NAMES_WITHOUT_SUBJECT = frozenset(
    {"utils.py", "util.py", "helpers.py", "helper.py", "manager.py", "misc.py", "common.py"}
)

# Host names are kept in parts and rules are written so that this file passes its own check.
REGISTRY_HOSTS = (
    ("crates", "io"),
    ("deb", "debian", "org"),
    ("ftp", "debian", "org"),
    ("index", "golang", "org"),
    ("npmjs", "com"),
    ("npmjs", "org"),
    ("proxy", "golang", "org"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("registry", "yarnpkg", "com"),
    ("repo", "maven", "apache", "org"),
    ("repo1", "maven", "org"),
)

SECRETS = (
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    r"\b(?:AKIA|ASIA)(?![A-Z0-9]*EXAMPLE)[A-Z2-7]{16}\b",
    r"(?i:aws_secret_access_key|secretaccesskey)\W{1,5}(?![A-Za-z0-9/+]*EXAMPLE)[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}",
    r"\b[Bb]earer [A-Za-z0-9._~+/-]{24,}",
    r"\b[Bb]asic [A-Za-z0-9+/]{24,}={0,2}",
    r"\bgh[oprsu]_[A-Za-z0-9]{36}",
    r"\bgithub_pat_[A-Za-z0-9_]{60,}",
    r"\bglpat-[A-Za-z0-9_-]{20}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}",
    r"\b[rs]k_live_[A-Za-z0-9]{16,}",
    r"\bAIza[A-Za-z0-9_-]{35}",
    r"\b(?:npm_|hf_)[A-Za-z0-9]{34,}",
)

MACHINE_PATHS = (
    r"(?<![\w.~-])/(?:root|work)/(?=[\w.])",
    r"(?<![\w.~-])/(?:home|Users)/(?!\$|<|you\b|user\b|auditlog\b)[\w.-]+",
    r"(?<![\w.~-])/tmp/[a-z]\w*/",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a line may not hold; `kind` is what an allowance names."""

    kind: str
    pattern: re.Pattern[str]


RULES = (
    Rule("secret", re.compile("|".join(SECRETS))),
    Rule("machine path", re.compile("|".join(MACHINE_PATHS))),
    Rule(
        "registry host",
        re.compile(
            r"(?<![\w-])(?:" + "|".join(r"\.".join(host) for host in REGISTRY_HOSTS) + r")(?![\w-])", re.IGNORECASE
        ),
    ),
)
KINDS = frozenset(rule.kind for rule in RULES)
ALLOWANCE = re.compile(r"(?:#|//|--) house: allow\(([^)]*)\)(?: -->)?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a rule is broken. It never repeats what was found: that may be a secret."""

    path: PurePosixPath
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def findings_in_text(path: PurePosixPath, text: str) -> Iterator[Finding]:
    """Yield what the lines of one file hold against the rules; an allowance of nothing or of no kind is a finding."""
    for number, line in enumerate(text.splitlines(), start=1):
        allowed = set(ALLOWANCE.findall(line.rstrip()))
        for unknown in sorted(allowed - KINDS):
            yield Finding(path, number, f"allows {unknown!r}, which is no kind of finding: {', '.join(sorted(KINDS))}")
        for rule in RULES:
            found = rule.pattern.search(line) is not None
            if found and rule.kind not in allowed:
                yield Finding(path, number, rule.kind)
            elif not found and rule.kind in allowed:
                yield Finding(path, number, f"allows a {rule.kind}, but there is none")


def findings_in_module(path: PurePosixPath, text: str) -> Iterator[Finding]:
    """Yield what speaks against a module's name and length."""
    if path.suffix != ".py" or path.parts[0] not in {"libs", "services"}:
        return
    if path.name in NAMES_WITHOUT_SUBJECT:
        yield Finding(path, 1, "a file's name says what it does")
    if (lines := text.count("\n")) > LINES_MAX:
        yield Finding(path, LINES_MAX + 1, f"{lines} lines, at most {LINES_MAX}: are there two subjects?")


def findings(root: Path, paths: Iterable[PurePosixPath]) -> Iterator[Finding]:
    """Yield every finding in the files `paths`, given relative to `root`. Binary files are passed over."""
    for path in paths:
        content = (root / path).read_bytes()
        if b"\0" in content:
            continue
        text = content.decode(errors="replace")
        yield from findings_in_text(path, text)
        yield from findings_in_module(path, text)


def tracked(root: Path) -> list[PurePosixPath]:
    """List the files of `root` that are in git, or would be with the next `git add`, and exist."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    paths = [PurePosixPath(name) for name in listed.stdout.split("\0") if name]
    return [path for path in paths if (root / path).is_file() and not (root / path).is_symlink()]


def main() -> int:
    """Check the repository this file stands in; return the exit code."""
    root = Path(__file__).resolve().parent.parent
    paths = tracked(root)
    found = list(findings(root, paths))
    for finding in found:
        print(finding)
    print(
        f"House rules: {len(paths)} files, {len(found)} findings"
        if found
        else f"House rules: {len(paths)} files, all kept"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
