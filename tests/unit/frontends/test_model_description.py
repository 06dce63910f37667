"""A servable in the words of Triton's model configuration."""

import json
from dataclasses import replace

from services import testing
from services.engine.loader import LoadOptions, load
from services.engine.model_config import ModelConfig
from services.frontends.model_description import describe_model
from services.manifest import Manifest


def test_a_model_without_the_default_signature_describes_those_it_has(tmp_path):
    version = testing.write_signatures(tmp_path / "1")
    manifest = Manifest.read(version)
    doubled = {"doubled": manifest.signatures["doubled"]}
    replace(manifest, signatures=doubled, onnx_files={"doubled": "model-doubled.onnx"}).write(version)
    servable = load(ModelConfig("m", tmp_path), 1, version, LoadOptions())
    config = describe_model(servable)
    servable.close()
    assert (config["name"], config["input"], config["output"]) == ("m", [], [])
    assert list(json.loads(config["parameters"]["signatures"]["string_value"])) == ["doubled"]
