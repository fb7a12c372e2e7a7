// Which manifests are taken: `manifests FILE...` prints a line each, `taken` or what is wrong.
#include <cstdio>
#include <fstream>
#include <iterator>

#include "error.hpp"
#include "manifest.hpp"

int main(int count, char** arguments) {
    for (int i = 1; i < count; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        try {
            gstk::impl::Manifest::parse(text, "the manifest");
            std::puts("taken");
        } catch (const gstk::impl::Error& error) {
            std::puts(error.what());
        }
    }
    return 0;
}
