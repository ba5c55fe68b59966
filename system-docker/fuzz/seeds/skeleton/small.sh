# Records of a frame of 20 bytes with five raw ones and an object of 7, and as many bytes of frames.
printf '\002\024\000\000\000\000\000\000\000'
printf '\000\005\000\000\000head:'
printf '\00101234567890123456789012345678901\007\000\000\000\000\000\000\000'
printf content | zstd -q -c
printf '%043d' 0
