"""An upload in more chunks than S3 has parts for an object."""

import contextlib
import http.client
import os

import pytest

from wire import digest_of

NAME = "disks/ubuntu"
CHUNK, COUNT = 1024, 10_050


@pytest.mark.slow
def test_an_upload_may_have_more_chunks_than_s3_has_parts(client):
    data = os.urandom(CHUNK * COUNT)
    digest, location = digest_of(data), client.begin(NAME)
    with contextlib.closing(http.client.HTTPConnection(client.host, timeout=60)) as connection:
        for start in range(0, len(data), CHUNK):
            end = start + CHUNK
            connection.request("PATCH", location, data[start:end], {"Content-Range": f"{start}-{end - 1}"})
            with connection.getresponse() as response:
                assert (response.status, response.headers["Range"]) == (202, f"0-{end - 1}"), response.read()
                response.read()
    # Beside all other tests it takes its time.
    answer = client.send("PUT", f"{location}?digest={digest}", timeout=300)
    assert answer.status == 201, answer
    path = f"/v2/{NAME}/blobs/{digest}"
    assert client.get(path).body == data
    middle = CHUNK * 9_999 + 7
    assert client.get(path, Range=f"bytes={middle}-{middle + 5000}").body == data[middle : middle + 5001]
