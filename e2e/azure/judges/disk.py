"""Python's azure-storage-blob on a disk's write SAS: fills it, reads it back, and is refused what a disk does not let.

Reads {"sas": ..., "content": bytes, "seed": text} from standard input, so that no signature stands among the arguments; writes
{"sha256": ..., "checks": [...]} of the content.
"""

import hashlib
import json
import os
import struct
import sys
import uuid
from urllib.parse import urlsplit

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient

asked = json.load(sys.stdin)
content = asked["content"]
# Not from_blob_url: on 127.0.0.1 it takes the first part of the path for an emulator's account.
url = urlsplit(asked["sas"])
_, container, blob = url.path.split("/")
client = BlobClient(
    f"{url.scheme}://{url.netloc}",
    container,
    blob,
    credential=url.query,
    connection_verify=os.environ["SSL_CERT_FILE"],
    retry_total=0,
    max_single_get_size=4 << 20,
    max_chunk_get_size=4 << 20,
)
checks = []


def noise(length, seed):
    parts = (hashlib.sha256(f"{seed}:{at}".encode()).digest() for at in range(-(-length // 32)))
    return b"".join(parts)[:length]


def footer(size):
    fields = b"conectix" + struct.pack(">IIQI4sI4sQQ4sI", 2, 0x10000, (1 << 64) - 1, 0, b"win ", 0xA0000, b"Wi2k", size, size, bytes(4), 2)
    rest = uuid.uuid4().bytes.ljust(512 - 68, b"\0")
    checksum = ~sum(fields + rest) & 0xFFFFFFFF
    return fields + struct.pack(">I", checksum) + rest


def check(name, good):
    if not good:
        sys.exit(f"disk.py: {name}")
    checks.append(name)


def refused(name, status, code, call):
    try:
        call()
    except HttpResponseError as error:
        found = (error.status_code, error.error_code and str(getattr(error.error_code, "value", error.error_code)))
        check(f"refused: {name}: {status} {code}", found == (status, code) or sys.exit(f"disk.py: {name}: {found} {error.message}"))
        return
    sys.exit(f"disk.py: {name}: it was let through")


properties = client.get_blob_properties()
check("properties", (properties.size, properties.blob_type.value) == (content + 512, "PageBlob"))
client.upload_page(footer(content), offset=content, length=512)

data = bytearray(noise(content, asked["seed"]))
data[1 << 20 : 2 << 20] = bytes(1 << 20)
for at in range(0, content, 4 << 20):
    piece = bytes(data[at : at + (4 << 20)])
    client.upload_page(piece, offset=at, length=len(piece), validate_content=True)
client.clear_page(offset=1 << 20, length=1 << 20)
check("what was written is read", client.download_blob(offset=0, length=content).readall() == bytes(data))
ranges = [(page.start, page.end) for page in client.list_page_ranges() if not getattr(page, "cleared", False)]
check("page ranges", ranges == [(0, (1 << 20) - 1), (2 << 20, content + 511)])

refused("5 MiB at once", 413, "RequestBodyTooLarge", lambda: client.upload_page(bytes(5 << 20), offset=0, length=5 << 20))
refused("metadata", 403, "AuthorizationPermissionMismatch", lambda: client.set_blob_metadata({"a": "b"}))
refused("a lease", 403, "AuthorizationPermissionMismatch", lambda: client.acquire_lease(15))
refused("a snapshot", 403, "AuthorizationPermissionMismatch", client.create_snapshot)
refused("creating it anew", 403, "AuthorizationPermissionMismatch", lambda: client.create_page_blob(content + 512))
refused("deleting it", 403, "AuthorizationPermissionMismatch", client.delete_blob)
refused("another size", 403, "AuthorizationPermissionMismatch", lambda: client.resize_blob(content))
refused("a sequence number", 403, "AuthorizationPermissionMismatch", lambda: client.set_sequence_number("max", 3))
refused("beyond the end", 416, "InvalidPageRange", lambda: client.upload_page(bytes(512), offset=content + 512, length=512))
check("nothing of it took effect", client.download_blob(offset=0, length=content).readall() == bytes(data))
json.dump({"sha256": hashlib.sha256(data).hexdigest(), "checks": checks}, sys.stdout)
