// What every part of the library throws; nothing of it crosses the C ABI (see capi.cpp).
#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

#include "gstk/gstk.h"

namespace gstk::impl {

class Error : public std::runtime_error {
  public:
    Error(gstk_status code, const std::string& message) : std::runtime_error(message), code_(code) {}
    gstk_status code() const { return code_; }

  private:
    gstk_status code_;
};

// The arguments as text, one after the other; numbers as `%g`, whatever the host's locale.
template <class... Parts>
std::string joined(const Parts&... parts) {
    std::ostringstream text;
    text.imbue(std::locale::classic());
    (text << ... << parts);
    return text.str();
}

// An error whose message is its arguments, one after the other.
template <class... Parts>
Error error(gstk_status code, const Parts&... parts) {
    return Error(code, joined(parts...));
}

// Length in bytes of the UTF-8 character that begins a text, 0 where none does.
inline std::size_t utf8_length(const std::string& text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
    const unsigned lead = byte(at);
    const std::size_t length = lead < 0x80   ? 1
                               : lead < 0xc2 ? 0
                               : lead < 0xe0 ? 2
                               : lead < 0xf0 ? 3
                               : lead < 0xf5 ? 4
                                             : 0;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte(at + i) & 0xc0) != 0x80) return 0;
    return length;
}

// A stranger's text for a one-line message: short UTF-8, without line breaks or terminal escapes.
inline std::string printable(const std::string& text, std::size_t longest = 120) {
    std::string result;
    for (std::size_t at = 0; at < text.size() && result.size() < longest;) {
        const std::size_t length = utf8_length(text, at);
        const bool plain = length > 1 || (length == 1 && text[at] >= 0x20 && text[at] != 0x7f);
        result += plain ? text.substr(at, length) : "?";
        at += plain ? length : 1;
    }
    return result;
}

// The first line of what a backend or system library has to say.
inline std::string first_line(const std::string& text) {
    const auto begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos) return "no reason given";
    return printable(text.substr(begin, text.find('\n', begin) - begin), 300);
}

}  // namespace gstk::impl
