from catdog.storage import crc32c


def test_crc32c_is_the_one_of_rfc_3720(tmp_path):
    path = tmp_path / "x"
    for content, expected in [(b"123456789", "e3069283"), (b"", "00000000"), (bytes(32), "8a9136aa")]:
        path.write_bytes(content)
        assert crc32c(path) == expected


def test_crc32c_of_a_file_longer_than_one_block_sees_its_last_byte(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(3 << 20))
    whole = crc32c(path)
    path.write_bytes(bytes((3 << 20) - 1) + b"\x01")
    assert crc32c(path) != whole
