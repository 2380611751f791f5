"""What the evolution check found, as text for people, as JSON, and as GitHub's annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Literal

from cdpgen.evolution import Finding

__all__ = ["Format", "show"]

Format = Literal["text", "json", "github"]


def show(findings: Iterable[Finding], form: Format, rules_path: str) -> str:
    """Writes findings down.

    Args:
        findings: in the order in which they are to stand.
        form: `text`; `json`, an array of objects; or `github`, a workflow command a line.
        rules_path: the file in which acceptances are written.
    """
    if form == "json":
        return json.dumps([_object(finding) for finding in findings], indent=2)
    lines = _github if form == "github" else _text
    return "\n".join(line for finding in findings for line in lines(finding, rules_path))


def _headline(finding: Finding) -> str:
    change = finding.change
    return f"{change.path} was {change.was}, is {change.now}"


def _accept(finding: Finding) -> str:
    return f'- {{rule: {finding.rule.id}, path: "{finding.change.path}", reason: "..."}}'


def _text(finding: Finding, rules_path: str) -> Iterator[str]:
    rule = finding.rule
    yield f"{finding.change.position}: {rule.severity}: {_headline(finding)} [{rule.id}]"
    yield f"    breaks: {rule.breaks}"
    yield f"    to fix: {rule.fix}"
    yield f"    to accept, under evolution: accept: in {rules_path}:"
    yield f"      {_accept(finding)}"


def _object(finding: Finding) -> dict[str, object]:
    change, rule = finding.change, finding.rule
    return {
        "rule": rule.id,
        "severity": rule.severity,
        "path": change.path,
        "file": change.position.file,
        "line": change.position.line,
        "column": change.position.column,
        "was": change.was,
        "is": change.now,
        "breaks": rule.breaks,
        "fix": rule.fix,
        "accept": _accept(finding),
    }


def _github(finding: Finding, rules_path: str) -> Iterator[str]:
    change, rule = finding.change, finding.rule
    place = (
        f"file={_escaped(change.position.file, ',:')},line={change.position.line},"
        f"col={change.position.column},title={rule.id}"
    )
    text = (
        f"{_headline(finding)}\nbreaks: {rule.breaks}\nto fix: {rule.fix}\n"
        f"to accept, in {rules_path}: {_accept(finding)}"
    )
    yield f"::{rule.severity} {place}::{_escaped(text)}"


def _escaped(text: str, more: str = "") -> str:
    """As GitHub's workflow commands want it."""
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
