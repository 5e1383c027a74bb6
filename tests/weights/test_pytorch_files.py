"""PyTorch and safetensors files of other projects: state dicts out of them, and nothing that runs."""

from __future__ import annotations

import argparse
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import ssdlite
from ssdlite.weights.pytorch.files import load_state_dict

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_state_dicts(tmp_path: Path, zipped: bool, wrapper: str | None) -> None:
    path = tmp_path / "a.pth"
    content = STATE if wrapper is None else {"epoch": 3, wrapper: STATE}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(load_state_dict(path))


def test_prefixes_of_wrappers_are_dropped(tmp_path: Path) -> None:
    torch.save({f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}, tmp_path / "a.pth")
    assert same(load_state_dict(tmp_path / "a.pth"))


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors, which is not installed")
    path = tmp_path / "a.safetensors"
    safetensors.save_file(STATE, path)
    assert same(load_state_dict(path))
    header = b'{"a":{"dtype":"F32","shape":[100000,100000],"data_offsets":[0,4]}}'
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ssdlite.CheckpointError, match="a damaged or truncated safetensors file"):
        load_state_dict(tmp_path / "b.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ssdlite.CheckpointError, match="a damaged or truncated safetensors file"):
        load_state_dict(path)


def test_files_that_hold_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content, message in (
        ({"epoch": 3, "state_dict": {"a": 1}}, "expected a state dict, found a dict of 'epoch', 'state_dict'"),
        ([1, 2], "expected a state dict, found a list"),
        (torch.zeros(3), "expected a state dict, found a Tensor"),
        ({"a": torch.zeros(1).expand(10**9)}, r"damaged: a \[10{9}\] needs 4000000000 bytes, the file holds 4$"),
    ):
        torch.save(content, path)
        with pytest.raises(ssdlite.CheckpointError, match=message):
            load_state_dict(path)


def test_keys_that_are_nested_tuples_are_told_by_their_beginnings(tmp_path: Path) -> None:
    """Of 2**15 parts that are one, which the file has once; torch hashes them, whatever is done here."""
    key: tuple[object, ...] = ()
    for _ in range(15):
        key = key, key
    torch.save({key: 1, "a" * 10**6: 2}, tmp_path / "a.pth")
    with pytest.raises(ssdlite.CheckpointError, match=r"found a dict of \(\(\(\(\.\.\.\), .*, 'a+\.\.\.a+'$") as caught:
        load_state_dict(tmp_path / "a.pth")
    assert len(caught.value.args[0]) < 500


def test_damaged_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ssdlite.CheckpointError, match="a damaged or truncated PyTorch file"):
        load_state_dict(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**6)
    with pytest.raises(ssdlite.CheckpointError, match="it is compressed, which torch"):
        load_state_dict(path)


class Runs:
    """Opens a file where it is unpickled by a reader that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_torchvisions_training_scripts(tmp_path: Path, zipped: bool) -> None:
    """With optimizer, schedule and the options as an argparse.Namespace; what runs in it is refused as ever."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 2, 3])
    content = {
        "model": STATE,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, device="cuda", trainable_backbone_layers=None, aspect_ratios=[0.5, 2.0]),
        "epoch": 12,
        "scaler": None,
    }
    path = tmp_path / "model_12.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    before = torch.serialization.get_safe_globals()
    assert same(load_state_dict(path))
    assert set(torch.serialization.get_safe_globals()) == set(before)
    content["args"] = argparse.Namespace(hook=Runs(tmp_path / "ran"))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ssdlite.CheckpointError, match="it holds more than tensors and plain values, and could run code"
    ):
        load_state_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_beside_the_tensors(tmp_path: Path, zipped: bool) -> None:
    """YOLOX's training keeps its AP so. They are not read, of a type with pointers in it neither."""
    path = tmp_path / "best_ckpt.pth"
    content = {"model": STATE, "best_ap": np.float64(0.258), "seen": np.int32(7)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(load_state_dict(path))
    torch.save({**content, "kind": np.dtype("O")}, path, _use_new_zipfile_serialization=zipped)
    assert same(load_state_dict(path))
    torch.save({**content, "values": np.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ssdlite.CheckpointError, match="it holds more than tensors and plain values"):
        load_state_dict(path)


@pytest.mark.parametrize("archive", [True, False])
def test_another_pickle_protocol(tmp_path: Path, archive: bool, recwarn: pytest.WarningsRecorder) -> None:
    """Said once, in the error: torch warns of it too."""
    torch.save(STATE, tmp_path / "a.pth", pickle_protocol=4, _use_new_zipfile_serialization=archive)
    with pytest.raises(ssdlite.CheckpointError, match="or of another protocol than torch"):
        load_state_dict(tmp_path / "a.pth")
    assert not recwarn.list
