"""Digests made right again after a change: seals of JSON files, digests of the files that they list."""

from __future__ import annotations

import hashlib
import json
import posixpath
from typing import Any

from numpy.random import Generator

from tests.fuzz.byte_mutations import CHANGES, in_one_file
from tests.fuzz.cases import Files, Mutation
from tests.fuzz.json_mutations import change_value, written
from tests.fuzz.weight_files import change_header, change_numbers, on

RUN = "5" * 32


def canonical(value: Any) -> str:
    """The JSON text that the project writes."""
    return written(value, indent=1, sort_keys=True) + "\n"


def sealed(values: dict[str, Any], job: str, of: str) -> str:
    """A sealed file's text."""
    rest = {name: value for name, value in values.items() if name != "seal"}
    text = canonical({**rest, "seal": {"job": job, "of": of}})
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return canonical({**rest, "seal": {"job": job, "of": of, "sha256": digest}})


def unsealed(data: bytes, job: str) -> dict[str, Any]:
    """What a sealed file says. Raises AssertionError where its seal is not right."""
    values = json.loads(data)
    seal = values["seal"]
    digest = json.loads(sealed(values, seal["job"], seal["of"]))["seal"]["sha256"]
    assert seal["job"] == job and seal["sha256"] == digest, "seal"
    return values


def made_right(files: Files) -> Files:
    """All files that list digests of others, and seals, made right. What cannot be parsed stays."""
    found = dict(files)
    for name, content in files.items():
        if not (name.endswith(".json") and isinstance(content, bytes)):
            continue
        try:
            values = json.loads(content)
            seal = values["seal"]
            job, of = seal["job"], seal["of"]
            folder = posixpath.dirname(name)
            if "weights_sha256" in values:
                of = values["weights_sha256"] = _digest(files, folder, "model.safetensors")
            for listed in values["sha256"] if isinstance(values.get("sha256"), dict) else ():
                values["sha256"][listed] = _digest(found, folder, listed)
            found[name] = sealed(values, job, of).encode("utf-8", "surrogatepass")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _digest(files: Files, folder: str, name: str) -> str:
    data = files.get(posixpath.join(folder, name))
    return hashlib.sha256(data if isinstance(data, bytes) else b"").hexdigest()


def and_made_right(change: Mutation) -> Mutation:
    def mutate(rng: Generator, files: Files, corpus: list[Files]) -> Files:
        return made_right(change(rng, files, corpus))

    return mutate


def sealed_value(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """A value of a sealed file, under a right seal."""
    names = sorted(name for name, data in files.items() if name.endswith(".json") and isinstance(data, bytes))
    name = names[int(rng.integers(len(names)))]
    try:
        values = json.loads(files[name] or b"")
        seal = values.pop("seal")
        changed = change_value(rng, values)
        text = sealed(changed, seal["job"], seal["of"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return files
    return files | {name: text.encode("utf-8", "surrogatepass")}


def sealed_mutations(binary: str) -> dict[str, Mutation]:
    """For samples of sealed JSON beside files of this ending, whose digests are made right after a change."""
    changes = ("flip bits", "set bytes", "cut end", "edge number", "insert", "append", "double block", "empty")
    found = {
        f"sealed {name}": and_made_right(in_one_file(CHANGES[name], lambda one: one.endswith(binary)))
        for name in changes
    }
    found |= {f"sealed value {i}": sealed_value for i in range(6)}
    if binary == ".safetensors":
        found |= {f"sealed header {i}": and_made_right(on(binary, change_header)) for i in range(3)}
        found |= {f"sealed numbers {i}": and_made_right(on(binary, change_numbers)) for i in range(2)}
    return found
