// Which JSON is taken: `manifests manifest|latency FILE...` prints a line each, `taken` or what is wrong.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "error.hpp"
#include "latency.hpp"
#include "manifest.hpp"

int main(int count, char** arguments) {
    const bool is_manifest = count > 1 && std::strcmp(arguments[1], "manifest") == 0;
    for (int i = 2; i < count; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        try {
            if (is_manifest)
                gstk::impl::Manifest::parse(text, "the manifest");
            else
                gstk::impl::LatencyModel::parse(text, "the model");
            std::puts("taken");
        } catch (const gstk::impl::Error& error) {
            std::puts(error.what());
        }
    }
    return 0;
}
