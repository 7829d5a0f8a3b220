# SPDX-License-Identifier: Apache-2.0
"""Python's safetensors opens a checkpoint of ours and finds the state in it; what it writes of the same content, in other orders and
with other blanks, we load to the same bits.

  checkpoint.py PROGRAM FOLDER      PROGRAM: checkpoint.cpp, built"""
import json
import os
import random
import subprocess
import sys

import safetensors
import safetensors.torch
import torch

TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int64: "I64"}


def state(program, action, path):
    """Bytes in hexadecimal by name."""
    lines = subprocess.run([program, action, path], capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.rsplit(" ", 1) for line in lines)


def hexadecimal(tensor):
    flat = tensor.contiguous().reshape(-1)
    return (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy().tobytes().hex()


def header_of(path):
    with open(path, "rb") as file:
        content = file.read()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def main(program, folder):
    ours = os.path.join(folder, "ours.safetensors")
    expected = state(program, "save", ours)
    tick = expected.pop("tick")

    with safetensors.safe_open(ours, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    assert set(tensors) == set(expected), set(tensors) ^ set(expected)
    header, _ = header_of(ours)
    assert metadata == header["__metadata__"]
    assert metadata["format"] == "apollo-optimizer" and metadata["version"] == "1" and metadata["tick"] == tick
    names = {name.rsplit(".", 1)[0] for name in tensors}
    assert {key for key in metadata if key.startswith("fingerprint:")} == {"fingerprint:" + name for name in names}
    for name, tensor in tensors.items():
        assert hexadecimal(tensor) == expected[name], name
        assert TYPES[tensor.dtype] == header[name]["dtype"] and list(tensor.shape) == header[name]["shape"], name
    assert list(tensors["dense.exp_avg"].shape) == [40, 30] and list(tensors["projected.exp_avg"].shape) == [40, 3]
    assert tensors["dense.step"].item() == 3 and tensors["brief.exp_avg"].dtype == torch.bfloat16

    theirs = os.path.join(folder, "theirs.safetensors")
    shuffle = random.Random(1).sample
    files = 0

    def loads(what):
        found = state(program, "load", theirs)
        assert found.pop("tick") == tick and found == expected, what
        return 1

    for _ in range(3):
        names = shuffle(list(tensors), len(tensors))
        entries = shuffle(list(metadata), len(metadata))
        safetensors.torch.save_file({name: tensors[name] for name in names}, theirs, {key: metadata[key] for key in entries})
        files += loads("save_file")

    # By hand: entries and data in orders of their own, blanks wherever JSON allows them, escapes, paddings of every length.
    for padding in range(9):
        entries, data = {}, b""
        for name in shuffle(list(tensors), len(tensors)):
            value = bytes.fromhex(expected[name])
            fields = {"data_offsets": [len(data), len(data) + len(value)], "dtype": header[name]["dtype"],
                      "shape": header[name]["shape"]}
            entries[name] = {key: fields[key] for key in shuffle(list(fields), 3)}
            data += value
        entries["__metadata__"] = metadata
        order = {name: entries[name] for name in shuffle(list(entries), len(entries))}
        text = json.dumps(order, indent=padding or None, ensure_ascii=padding % 2 == 0).encode() + b" " * padding
        with open(theirs, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + data)
        files += loads(f"padding {padding}")
    print(f"checkpoints: safetensors {safetensors.__version__} finds {len(tensors)} tensors as we wrote them, "
          f"and we load {files} files with the same content")


if __name__ == "__main__":
    main(*sys.argv[1:])
