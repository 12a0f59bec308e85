"""What is in a model file, as lines for people. Pure functions of what api.inspect and api.convert return."""

from __future__ import annotations

from pathlib import Path

from edgekit.report.words import count, size
from edgekit.types import Artifact, Json, to_json

WIDTH = 100


def lines(found: Json) -> list[str]:
    """The description of a file, most telling first."""
    word = found.get("format") or {"pt2": "torch.export", "checkpoint": "pickled torch"}.get(
        found["kind"], found["kind"]
    )
    precision = found.get("precision", "")
    shown = [f"{found['file']}: {word} {precision}".rstrip() + f", {size(found['size_bytes'])}"]
    shown += _tensors(found)
    if found.get("weights_bytes"):
        shown.append(
            "weights    " + ", ".join(f"{dtype} {size(count)}" for dtype, count in found["weights_bytes"].items())
        )
    if "macs" in found:
        unknown = f"; not counted: {', '.join(found['uncounted'])}" if found.get("uncounted") else ""
        shown.append(f"work       {count(found['macs'])} MACs a call, {count(found['parameters'])} parameters{unknown}")
    shown += _wrapped("operators", found.get("operators", {}), found.get("total_ops"))
    delegate = found.get("delegate")
    if delegate and "expected_ops" in delegate:
        whole = f"{delegate['expected_ops']} of {delegate['total_ops']} operators"
        shown.append(f"delegate   {delegate['name']} is expected to take {whole}")
        shown += _wrapped("the rest", delegate.get("rest", {}), None)
    elif delegate:
        shown.append(f"delegate   {delegate['name']}, called {delegate['calls']} times")
        shown += _wrapped("the rest", delegate.get("rest", {}), None)
    if found.get("opset"):
        shown.append("opset      " + ", ".join(f"{domain} {version}" for domain, version in found["opset"].items()))
    if found.get("custom_operators"):
        shown.append(f"custom     {', '.join(found['custom_operators'])}: no stock runtime knows them")
    return shown + [f"note       {note}" for note in found.get("notes", ())]


def of_artifact(path: Path, made: Artifact) -> list[str]:
    """What was written by a conversion."""
    found = to_json(made)
    shown = [f"{path}: {made.format} {made.precision}, {size(made.size_bytes)}", *_tensors(found)]
    details = made.details
    if "delegated_share" in details:
        shown.append(f"delegated  {details['delegated_ops']} of {details['total_ops']} operators")
    if "quantized_layers" in details and made.precision != "fp32":
        shown.append(f"quantized  {details['quantized_layers']} of {details['layers']} layers")
    return shown


def _tensors(found: Json) -> list[str]:
    """One line for each input and output."""
    shown = []
    for side in ("input", "output"):
        for spec in found[f"{side}s"]:
            shape = "x".join("?" if extent < 0 else str(extent) for extent in spec["shape"])
            text = f"{side:<10} {spec['name']}  {shape}  {spec['dtype']}"
            quantization = spec.get("quantization")
            if quantization:
                scale, point = quantization["scale"][0], quantization["zero_point"][0]
                text += f"  scale {scale:g}, zero point {point}"
            shown.append(text + (f"  {spec['layout']}" if spec.get("layout") else ""))
    return shown


def _wrapped(heading: str, counts: Json, total: int | None) -> list[str]:
    """Counted names, the most frequent first, over as many lines as they need."""
    if not counts:
        return []
    words = [f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    rows = [f"{heading:<10} " + (f"{total}: " if total else "")]
    for index, word in enumerate(words):
        piece = word + (", " if index < len(words) - 1 else "")
        if len(rows[-1]) + len(piece) > WIDTH:
            rows.append(" " * 11)
        rows[-1] += piece
    return [row.rstrip() for row in rows]
