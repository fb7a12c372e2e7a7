// The fields of JSON that may come from anywhere: each is checked, and a wrong one is named.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"

namespace gstk::impl {

using Json = nlohmann::json;

// What errors say about a file: their code, what it is, and what to do.
struct JsonFile {
    gstk_status code;
    const char* name;
    const char* remedy;
};

// A value for a one-line message.
std::string shorten(const Json& value);

// One JSON object and its place in a file; every reader throws the file's code where a field is missing or wrong.
class Fields {
  public:
    Fields(const Json& values, const JsonFile& file, std::string place = "");

    const Json& values() const { return values_; }
    Error wrong(const std::string& key, const std::string& expected) const;
    const Json& value(const std::string& key, const std::string& expected) const;
    Fields sub(const std::string& key) const;
    std::string text(const std::string& key) const;  // not empty
    std::int64_t integer(const std::string& key, std::int64_t minimum) const;
    double number(const std::string& key, double minimum) const;  // finite
    bool flag(const std::string& key) const;
    std::vector<std::int64_t> integers(const std::string& key, std::int64_t minimum) const;
    std::pair<double, double> rising_pair(const std::string& key) const;
    // Throws where there are other fields than these.
    void only(const std::vector<std::string>& keys) const;

  private:
    const Json* find(const std::string& key) const;
    std::string name_of(const std::string& key) const;

    const Json& values_;
    const JsonFile& file_;
    std::string place_;
};

}  // namespace gstk::impl
