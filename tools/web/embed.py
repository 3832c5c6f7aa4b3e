#!/usr/bin/env python3
"""Writes a file as a C array, for the build.

usage: embed.py INPUT OUTPUT.c
"""
import sys

with open(sys.argv[1], "rb") as file:
    data = file.read()
rows = "\n".join("  " + "".join(f"{byte}," for byte in data[at:at + 24]) for at in range(0, len(data), 24))
with open(sys.argv[2], "w") as file:
    file.write('#include "tools/web/page.h"\n\nconst unsigned char metrics_page[] = {\n' + rows +
               "\n};\nconst size_t metrics_page_bytes = sizeof metrics_page;\n")
