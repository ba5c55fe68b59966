# A layer with one entry of each kind, and both kinds of whiteouts (OCI image specification, layer.md).
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/d/e"
: >"$dir/d/.wh.gone"
: >"$dir/d/e/.wh..wh..opq"
echo text >"$dir/d/file"
ln "$dir/d/file" "$dir/d/hard"
ln -s ../d/file "$dir/d/e/link"
mkfifo "$dir/d/pipe"
tar -C "$dir" --format=pax --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c d
