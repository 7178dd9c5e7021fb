"""Two processes on loopback share a model and a video and give the answer of one, of each system."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import tempo_jax
from tempo_jax import checkpoint
from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
from tests import xcomp_systems
from tests.systems import recorded_frames

REPO = Path(__file__).resolve().parent.parent
CHILD = """
import json, sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import tempo_jax
from tempo_jax.sharding import make_mesh
from tests.systems import recorded_frames
assert jax.device_count() == 4 and jax.local_device_count() == 2
tempo = tempo_jax.load(sys.argv[3], mesh=make_mesh(data=2, fsdp=1, tensor=2))
answer = tempo.ask(recorded_frames(1, 37, 64, 128), "What colour is the ball?", **json.loads(sys.argv[4]))
print(json.dumps([answer.token_ids, [s.tokens for s in answer.segments]]))
"""
# (system, options of ask)
SYSTEMS = {
    "tempo": {"budget": 40, "max_new_tokens": 4},
    "xcomp": {"budget": 128, "min_frames": 24, "strategy": "local", "max_new_tokens": 4},
}


@pytest.fixture
def model(request, tiny_checkpoint, tmp_path):
    """A native checkpoint of the system."""
    if request.param == "tempo":
        return tiny_checkpoint
    minireel_tokenizer.write(tmp_path / "tokenizer")
    params = xcomp_systems.micro_parameters()
    checkpoint.save(tmp_path / "model", "xcomp", xcomp_systems.MICRO, params, tmp_path / "tokenizer")
    return tmp_path / "model"


@pytest.mark.parametrize("model, options", SYSTEMS.items(), indirect=["model"], ids=SYSTEMS)
def test_two_processes_answer_as_one(model, options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", CHILD, address]
    children = [
        subprocess.Popen(
            [*command, str(rank), str(model), json.dumps(options)],
            cwd=REPO,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    for child, (_, err) in zip(children, outputs, strict=True):
        assert child.returncode == 0, err[-3000:]
    results = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    frames = recorded_frames(1, 37, 64, 128)
    answer = tempo_jax.load(model).ask(frames, "What colour is the ball?", **options)
    expected = [answer.token_ids, [s.tokens for s in answer.segments]]
    assert results == [expected, expected]
