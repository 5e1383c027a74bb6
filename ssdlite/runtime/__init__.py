"""Running exported models with numpy and the runtime's own package. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdlite.lazy import attach

if TYPE_CHECKING:
    from ssdlite.runtime.backends import BACKENDS as BACKENDS
    from ssdlite.runtime.backends.base import Backend as Backend
    from ssdlite.runtime.contract import Contract as Contract
    from ssdlite.runtime.contract_file import read_contract as read_contract
    from ssdlite.runtime.model import RuntimeDetector as RuntimeDetector
    from ssdlite.runtime.model import load_model as load_model
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "BACKENDS": "ssdlite.runtime.backends",
            "Backend": "ssdlite.runtime.backends.base",
            "Contract": "ssdlite.runtime.contract",
            "RuntimeDetector": "ssdlite.runtime.model",
            "load_model": "ssdlite.runtime.model",
            "read_contract": "ssdlite.runtime.contract_file",
        },
    )
