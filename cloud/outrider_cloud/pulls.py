"""Fetches the parts that a device offers by digest, block by block. Blocks count only from the device that was asked."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from collections.abc import AsyncIterator

from outrider_cloud.blobstore import BlobStore
from outrider_cloud.replies import Publish
from outrider_link.blobs import BlobPuller
from outrider_wire.messages import BlobBlock, BlobGone, Part
from outrider_wire.topics import Topics
