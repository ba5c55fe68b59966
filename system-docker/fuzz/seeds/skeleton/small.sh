# The length of the records: a frame of 21 bytes, five raw ones and an object of 7; and that frame.
printf '\074'
printf '\002\025\000\000\000\000\000\000\000'
printf '\000\005\000\000\000head:'
printf '\00101234567890123456789012345678901\007\000\000\000\000\000\000\000'
printf 'head:content' | zstd -q -c --no-check
