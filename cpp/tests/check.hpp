// A check that says where it failed; the program's exit code is whether any did.
#pragma once

#include <cstdio>

inline int& failures() {
    static int count = 0;
    return count;
}

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            ++failures();                                                       \
            std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                       \
    } while (false)
