// One encode and one decode through the C ABI.
//
//     engine_run BACKEND BUNDLE PRECISION INPUTS.npz LOGITS [DEVICE PLANS]
//
// INPUTS: `image` float32 (z,y,x), `coords` float32 [B,N,3], `labels` int64 [B,N]. LOGITS: float32 [B,z,y,x], raw.
#include <fstream>
#include <gstk/gstk.hpp>
#include <iostream>

#include "npz.hpp"

namespace {

template <class T>
const T* data(const gstk::impl::Array& array) {
    return reinterpret_cast<const T*>(array.bytes.data());
}

int run(char** arguments, bool on_gpu) {
    const gstk::Engine engine =
        on_gpu ? gstk::Engine(arguments[2], {arguments[1], arguments[3], arguments[6], arguments[7], "", 0})
               : gstk::Engine(arguments[2], arguments[1], arguments[3], 2);
    const auto image = gstk::impl::read_array(arguments[4], "image");
    const auto coords = gstk::impl::read_array(arguments[4], "coords");
    const auto labels = gstk::impl::read_array(arguments[4], "labels");
    const auto objects = static_cast<std::size_t>(labels.shape[0]), points = static_cast<std::size_t>(labels.shape[1]);
    std::vector<float> logits(objects * image.bytes.size() / sizeof(float));
    gstk::Owned<gstk_embedding, gstk_embedding_close> embedding;
    gstk::check(gstk_engine_encode(engine.get(), data<float>(image), image.shape.data(), embedding.put()));
    gstk::check(gstk_engine_decode(engine.get(), embedding.get(), data<float>(coords), data<std::int64_t>(labels),
                                   objects, points, logits.data(), logits.size()));
    std::ofstream file(arguments[5], std::ios::binary);
    file.write(reinterpret_cast<const char*>(logits.data()),
               static_cast<std::streamsize>(logits.size() * sizeof(float)));
    return file.good() ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 6 && count != 8) return 2;
    try {
        return run(arguments, count == 8);
    } catch (const gstk::Error& error) {
        std::cerr << "error " << error.code() << ": " << error.what() << '\n';
        return 1;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
}
