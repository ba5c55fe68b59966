# Two frames of a log, one of each stream: kind, length, content.
printf '\001\000\000\000\003abc\002\000\000\000\001d{"start":null}'
