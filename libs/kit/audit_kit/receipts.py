"""
The receipt of ingest, version 1: which events of which batches are durable, signed under the tenant's receipt key.

    receipt = base64url(u8 version | key_id[16] | (batch_id[16] | u32be first | u32be count)… | mac[32]), unpadded
    mac     = HMAC-SHA256("auditlog/receipt/1\\n" | tenant | "\\n" | what stands before it)

To clients it is opaque. It binds the answer to the batches that the ledger will hold, and names no event's content.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Final

from audit_contracts.principal import TenantId
from audit_kit.packing import Placement
from audit_kit.secret_keys import SecretKey

RECEIPT_VERSION: Final = 1

_TAG: Final = b"auditlog/receipt/1\n"
_HEAD: Final = struct.Struct(">B16s")
_PLACE: Final = struct.Struct(">16sII")


def receipt(tenant: TenantId, placements: Iterable[Placement], key: SecretKey) -> str:
    """A receipt for the events at `placements`, in the order in which they were sent."""
    places = b"".join(_PLACE.pack(place.batch_id.bytes, place.first, place.count) for place in placements)
    signed = _HEAD.pack(RECEIPT_VERSION, key.key_id.bytes) + places
    mac = key.mac(_TAG + tenant.encode() + b"\n" + signed)
    return urlsafe_b64encode(signed + mac).rstrip(b"=").decode()
