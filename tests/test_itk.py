"""ITK runs with the C locale's numbers, and everything else of the thread's locale stays."""

from __future__ import annotations

import locale

import pytest

from gstk.cases.itk import quiet_itk


def test_texts_keep_their_encoding_while_itk_runs() -> None:
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        pytest.skip("needs the locale C.UTF-8, of Debian and most others")
    with quiet_itk():
        assert locale.nl_langinfo(locale.CODESET) == "UTF-8"
        assert locale.nl_langinfo(locale.RADIXCHAR) == "."
    assert locale.nl_langinfo(locale.CODESET) == "UTF-8"
