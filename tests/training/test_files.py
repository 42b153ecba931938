"""Which clips, lists and mels there are on disk."""

import pytest

from hifigan_fast.training.files import find_clips, find_mels
from hifigan_fast.voice import write_clips


def named(folder, *names):
    """Empty files of these names below a folder -> their paths."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_real_or_synthetic_speech_is_found(speech):
    training, validation = find_clips(speech)
    assert len(training) == 15 and len(validation) == 1 and max(training) < validation[0]


@pytest.mark.parametrize(("clips", "held_out"), [(2, 1), (130, 1), (175, 2), (262, 3)])
def test_share_held_out(tmp_path, clips, held_out):
    for i in range(clips):
        (tmp_path / f"{i:04d}.wav").touch()
    training, validation = find_clips(tmp_path)
    assert (len(training), len(validation)) == (clips - held_out, held_out)
    assert training + validation == sorted(tmp_path.iterdir())


def test_lists_of_the_original(tmp_path):
    (tmp_path / "wavs").mkdir()
    for path in ("wavs/a.wav", "wavs/b.wav", "c.wav", "wavs/unlisted.wav"):
        (tmp_path / path).touch()
    (tmp_path / "training.txt").write_text("b|some text|more\n\na|text\n")
    (tmp_path / "validation.txt").write_text("c|text\n")
    assert find_clips(tmp_path) == ([tmp_path / "wavs/b.wav", tmp_path / "wavs/a.wav"], [tmp_path / "c.wav"])
    (tmp_path / "validation.txt").write_text("c|text\nd|text\n")
    with pytest.raises(ValueError, match=r"validation.txt, line 2: no file .*d.wav"):
        find_clips(tmp_path)
    (tmp_path / "validation.txt").unlink()
    with pytest.raises(ValueError, match="has a training.txt but no validation.txt"):
        find_clips(tmp_path)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_wavs(tmp_path, count):
    if count:
        write_clips(tmp_path, count, 0.1)
    with pytest.raises(ValueError, match=f"data: expected at least 2 wavs in '{tmp_path}'.* got {count}"):
        find_clips(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="data: expected a folder of wavs, got '.*nowhere'"):
        find_clips(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("clips", "mels"),
    [
        (("a/0.wav", "b/0.wav"), ("a/0.npy", "b/0.npy")),
        (("a/0.wav", "b/1.wav"), ("0.npy", "1.npy")),
        (("a/0.wav", "b/0.flac"), ("a/0.npy", "b/0.npy")),
        (("0.wav", "b/0.wav"), ("0.npy", "b/0.npy")),
        (("wavs/0.wav", "wavs/b/0.wav"), ("0.npy", "b/0.npy")),
        (("wavs/0.wav", "wavs/b/1.wav"), ("0.npy", "1.npy")),
        (("a.b.wav", "a.c.wav"), ("a.b.npy", "a.c.npy")),
        (("../elsewhere/0.wav", "b/1.wav"), ("0.npy", "b/1.npy")),
    ],
)
def test_mel_of_a_clip(tmp_path, clips, mels):
    data, folder = tmp_path / "data", tmp_path / "mels"
    clips, mels = named(data, *clips), named(folder, *mels)
    named(tmp_path, "elsewhere/0.npy")  # no mel, whatever a path through `..` says
    assert find_mels(folder, data, clips) == dict(zip(clips, mels, strict=True))


@pytest.mark.parametrize(
    ("clips", "mels", "claimed"),
    [
        (("a/0.wav", "b/0.wav"), ("0.npy",), "0.npy could belong to 2 clips, .*a/0.wav and .*b/0.wav"),
        (("a/0.wav", "b/0.wav"), ("0.npy", "a/0.npy"), "0.npy could belong to 2 clips"),
        (("0.wav", "b/0.wav"), ("0.npy",), "0.npy could belong to 2 clips"),
        (("0.wav", "wavs/0.wav"), ("0.npy",), "0.npy could belong to 2 clips"),
    ],
)
def test_two_clips_claim_one_mel(tmp_path, clips, mels, claimed):
    named(tmp_path / "mels", *mels)
    with pytest.raises(ValueError, match=f"fine-tune: .*{claimed}"):
        find_mels(tmp_path / "mels", tmp_path / "data", named(tmp_path / "data", *clips))


def test_a_wav_counts_before_the_flac_beside_it(tmp_path):
    named(tmp_path, "a.wav", "a.flac", "b.FLAC", "c/a.flac", "d.mp3")
    assert find_clips(tmp_path) == ([tmp_path / "a.wav", tmp_path / "b.FLAC"], [tmp_path / "c/a.flac"])


def test_other_audio_is_hinted_at(tmp_path):
    named(tmp_path, "a.mp3", "b.MP3", "c.ogg", "d.txt")
    with pytest.raises(ValueError, match="got 0; convert its 2 .mp3 files and 1 .ogg files to wav or FLAC$"):
        find_clips(tmp_path)


def test_linked_folders(tmp_path):
    """Links are followed, a folder counts once, and a link to a folder above ends."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    named(data, "z/0.wav")
    named(elsewhere, "1.wav", "deep/2.wav")
    for link, target in (("a", "z"), ("speaker", elsewhere), ("twice", elsewhere), ("z/loop", data)):
        (data / link).symlink_to(target, target_is_directory=True)
    training, held_out = find_clips(data)
    assert training + held_out == [data / name for name in ("speaker/1.wav", "speaker/deep/2.wav", "z/0.wav")]


@pytest.mark.parametrize("link", ["speaker", "0.wav"])
def test_link_to_nothing(tmp_path, link):
    named(tmp_path, "1.wav", "2.wav")
    (tmp_path / ".#lock").symlink_to("me@host.1")  # as an editor leaves it
    assert len(find_clips(tmp_path)[0]) == 1
    (tmp_path / link).symlink_to("gone")
    with pytest.raises(ValueError, match=f"data: .*{link} is a link to gone, which is not there"):
        find_clips(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_a_list_end_at_newlines_only(tmp_path, end):
    """Text may hold what str.splitlines() takes for an end: U+2028, U+0085, form feeds."""
    clips = named(tmp_path, "a.wav", "b.wav", "c.flac")
    lines = ["a|text\u2028text", "b|text\x85\x0c\x1ctext"]
    (tmp_path / "training.txt").write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    (tmp_path / "validation.txt").write_bytes(f"c|text{end}".encode())
    assert find_clips(tmp_path) == (clips[:2], clips[2:])


@pytest.mark.parametrize(
    ("content", "line"),
    [("a|ä\nb|é\nc".encode("latin-1"), 1), (b"a|a\nb|b\n\xef", 3), ("a|text".encode("utf-16"), 1)],
)
def test_list_in_another_encoding(tmp_path, content, line):
    named(tmp_path, "a.wav", "b.wav", "c.wav", "training.txt", "validation.txt")
    (tmp_path / "validation.txt").write_text("a")
    (tmp_path / "training.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"data: .*training.txt, line {line}: expected UTF-8, got"):
        find_clips(tmp_path)
