# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Paths that lead out of a dataset's own folder, or run code where they are opened."""

HOSTILE = """
reference://a.png::file:///somewhere/refs.json
reference://a.png
zip://a.png::file:///etc/passwd
zip://a.png::https://example.org/a.zip
tar://a.png::/tmp/a.tar
simplecache::http://example.org/a.png
filecache::file:///etc/passwd
blockcache::s3://bucket/a.png
http://example.org/a.png::file:///etc/passwd
file:///etc/passwd
FILE:///etc/passwd
file://localhost/etc/passwd
local:///etc/passwd
ssh://host/etc/passwd
sftp://host/a.png
ftp://host/a.png
ftps://host/a.png
git://host/repo/a.png
github://owner:repo@/a.png
gist://1234/a.png
smb://host/share/a.png
hdfs://host/a.png
webhdfs://host/a.png
dask://host/a.png
jupyter://host/a.png
dbfs://a.png
memory://a.png
python://os.system
pickle://a.png
gopher://host/a
dict://host/a
ldap://host/a
jar://host/a!/b
libarchive://a.png::/tmp/a.7z
lakefs://repo/a.png
oci://bucket/a.png
/etc/passwd
../a.png
sub/../../a.png
../../../../etc/passwd
./../data2/a.png
sub/./../../a.png
..
.
/
//etc/passwd
a\0.png
refused:a.png
Reference://a.png::file:///somewhere/refs.json
""".strip().splitlines()
HOSTILE = [path.replace("\\0", "\0") for path in HOSTILE]
