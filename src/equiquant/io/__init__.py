"""The door: files and protobufs come in and go out here, and onnxruntime sessions are made here."""

from equiquant.io.load import LoadedModel, ModelLike, load_model
from equiquant.io.mapped import unload
from equiquant.io.memory import memory_managed, release_memory
from equiquant.io.places import check_makeable, check_writable, path_of, place_of
from equiquant.io.runtime import Feed, InputSpec, Runner, expose, input_specs
from equiquant.io.save import check_place, data_file, is_large, model_bytes, save_model, to_proto
from equiquant.io.size import files_of, model_files
from equiquant.io.upgrade import TARGET_OPSET, inline_functions, is_operator, raise_ir_version, upgrade_opset

__all__ = [
    "TARGET_OPSET",
    "Feed",
    "InputSpec",
    "LoadedModel",
    "ModelLike",
    "Runner",
    "check_makeable",
    "check_place",
    "check_writable",
    "data_file",
    "expose",
    "files_of",
    "inline_functions",
    "input_specs",
    "is_large",
    "is_operator",
    "load_model",
    "memory_managed",
    "model_bytes",
    "model_files",
    "path_of",
    "place_of",
    "raise_ir_version",
    "release_memory",
    "save_model",
    "to_proto",
    "unload",
    "upgrade_opset",
]
