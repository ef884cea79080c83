"""Checks whether a model folder can be used: its files, its name, and what `model.json` promises."""

from collections.abc import Iterator
from pathlib import Path

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model import signature
from spheroseg.segmentation.model.card import NETWORK, Card, read_card, read_network
from spheroseg.segmentation.model.catalogue import known_models
from spheroseg.segmentation.model.network import Network
from spheroseg.segmentation.model.session import open_session
from spheroseg.segmentation.model.trials import CheckResult, failed, passed, try_network


def check_model(folder: Path) -> Iterator[CheckResult]:
    """Check the model in `folder` and yield one result per check. It takes some seconds.

    Checks that cannot work after a failed one are left out.
    """
    try:
        card = read_card(folder)
    except ModelUnusable as error:
        yield failed("model.json", str(error))
        return
    yield passed("model.json", f"{card.name} {card.version}, licence {card.licence}")
    yield from _check_name(card, folder)
    try:
        content = read_network(folder)
    except ModelUnusable as error:
        yield failed("model.onnx", str(error))
        return
    opset = signature.read_opset(content)
    if opset is not None and opset < signature.MIN_OPSET:
        remedy = f"export the network with opset {signature.MIN_OPSET} or later"
        yield failed("opset", f"the network is written in opset {opset}", remedy)
    try:
        session = open_session(content, folder / NETWORK)
    except ModelUnusable as error:
        yield failed("model.onnx", str(error))
        return
    yield passed("model.onnx", f"can be loaded, {len(content) / 1e6:.1f} MB, opset {opset}")
    mismatches = list(signature.find_mismatches(session, card))
    for mismatch in mismatches:
        yield failed("inputs and outputs", mismatch.problem, mismatch.remedy)
    if mismatches:
        return
    outputs = ", ".join(filter(None, (card.output.probability, card.output.distance)))
    yield passed("inputs and outputs", f"{card.input.name} to {outputs}, float32, any number and size")
    try:
        network = Network(folder)
    except ModelUnusable as error:
        yield failed("values", str(error))
        return
    yield from try_network(folder, network)


def _check_name(card: Card, folder: Path) -> Iterator[CheckResult]:
    others = [model for model in known_models() if model.name == card.name and not _is_same(model.folder, folder)]
    if others:
        origin = others[0].folder or "built in"
        yield failed("name", f"a model called {card.name} comes with spheroseg ({origin})", "give it another name")


def _is_same(known: Path | None, folder: Path) -> bool:
    return known is not None and known.resolve() == folder.resolve()
