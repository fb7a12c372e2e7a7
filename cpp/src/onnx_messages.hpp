// ONNX files read and written field by field; mirrors gstk.engines.onnx_messages.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace gstk::impl {

// A field of a message of Protocol Buffers: its number, where it begins, its value's first byte and its end, and the
// value of a whole number.
struct Field {
    std::uint64_t number, begin, value, end, integer;
};

// Bytes of a file or text: those from `begin` to `end`, fewer where it ends before.
using ReadBytes = std::function<std::string(std::uint64_t begin, std::uint64_t end)>;

ReadBytes bytes_of(const std::string& text);  // refers to it

// The fields of the message between `begin` and `end`. Throws std::runtime_error where these bytes are none.
std::vector<Field> fields(const ReadBytes& read, std::uint64_t begin, std::uint64_t end);

std::string number_field(std::uint64_t number, std::uint64_t value);
std::string bytes_field(std::uint64_t number, const std::string& value);

// A field of a graph: a node with one output, and attributes that are whole numbers.
using Attributes = std::vector<std::pair<std::string, std::uint64_t>>;
std::string node_field(const std::string& kind, const std::vector<std::string>& inputs, const std::string& output,
                       const Attributes& attributes = {});

}  // namespace gstk::impl
