"""The door: files and protobufs come in and go out here, and onnxruntime sessions are made here."""

from equiquant.io.load import LoadedModel, ModelLike, load_model
from equiquant.io.runtime import InputSpec, Runner
from equiquant.io.save import save_model, to_proto

__all__ = ["InputSpec", "LoadedModel", "ModelLike", "Runner", "load_model", "save_model", "to_proto"]
