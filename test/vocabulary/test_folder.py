import pytest

from ovs_ros.vocabulary.folder import load_by_name
from ovs_ros.vocabulary.vocabulary import VocabularyError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "bay 7.v2.yaml").write_text("[pallet, forklift]")
    (tmp_path / "secret.yaml").write_text("[secret]")
    return folder


def test_files_of_the_folder_come_before_the_shipped_ones(folder):
    assert load_by_name("bay 7.v2", folder).names == ("pallet", "forklift")
    assert len(load_by_name("home", folder)) > 10
    (folder / "home.yaml").write_text("[sofa]")
    assert load_by_name("home", folder).names == ("sofa",)
    assert len(load_by_name("home", None)) > 10


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret", "/etc/passwd", "a/b", "a\\b", "bay\0", "~", ".hidden", "x" * 101]
)
def test_what_is_no_plain_name_is_refused(folder, name):
    with pytest.raises(VocabularyError, match="expected the name of a vocabulary"):
        load_by_name(name, folder)


def test_links_that_lead_out_are_not_followed(folder):
    (folder / "out.yaml").symlink_to(folder.parent / "secret.yaml")
    with pytest.raises(VocabularyError, match="got 'out'"):
        load_by_name("out", folder)
    (folder / "same.yaml").symlink_to(folder / "bay 7.v2.yaml")
    assert load_by_name("same", folder).names == ("pallet", "forklift")


def test_an_unknown_name_gets_those_that_there_are(folder):
    with pytest.raises(VocabularyError, match=r"bay 7\.v2, home.*got 'bay'; the folder is"):
        load_by_name("bay", folder)
    with pytest.raises(VocabularyError, match="vocabulary_folder is not set"):
        load_by_name("bay", None)
