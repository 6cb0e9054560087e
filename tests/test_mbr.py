import pytest

from redraft.errors import BadInput
from redraft.eval.mbr import mbr, ngrams, similarity


def test_one_sample_is_chosen_and_of_three_the_double():
    assert mbr(["anything"]) == 0
    assert mbr(["quite another thing", "to be or not", "to be or not"]) == 1
    assert mbr(["a b c d", "a b c d e", "x y"]) in (0, 1)
    assert mbr(["x y z", "a b c d e f", "a b c d", "a b c d e"]) == 3  # amid the others
    with pytest.raises(BadInput):
        mbr([])


def test_similarity_is_one_for_equals_none_for_strangers_and_symmetric():
    one, two, far = (ngrams(x) for x in ("a b c, d", "a b x d", "q r s"))
    assert similarity(one, one) == 1 and similarity(one, far) == 0
    assert 0 < similarity(one, two) == similarity(two, one) < 1
    assert similarity(ngrams(""), ngrams("")) == 1
    # words: 2*3/9 in common (a b d of 5 and 4); pairs: 2*1/7; longer ones: none
    assert similarity(one, two) == pytest.approx((6 / 9 + 2 / 7 + 0 + 0) / 4)
