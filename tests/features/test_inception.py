import copy
import socketserver
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from features.inception import WEIGHTS_FILE, WEIGHTS_SHA256, InceptionFeatures, InceptionV3, published_weights
from features.network import load

State = OrderedDict[str, Tensor]
Publish = Callable[[dict[str, Tensor], Path], None]

SMALL = {"weight": torch.arange(6.0)}


@pytest.fixture(scope="module")
def extractor(inception_state: State) -> InceptionFeatures:
    return InceptionFeatures(inception_state, "random", resize="tf1-bilinear")


@pytest.fixture(scope="module")
def reference(inception_state: State, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """torch-fidelity's network with the same weights; gives features and unbiased logits."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is missing")
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(inception_state, path)
    return theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(path))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where the weights are kept, and torch.hub's folder: both of this test alone; and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("features.inception.WEIGHTS_URL", "http://127.0.0.1:9/inception.pth")  # nobody listens there
    return tmp_path / "cache" / "atelier" / "weights", tmp_path / "hub" / "checkpoints"


def pictures(height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, channels, height, width), generator=generator, dtype=torch.uint8)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# The network.


def test_names_and_shapes_are_the_published_ones(reference: nn.Module) -> None:
    ours = {name: value.shape for name, value in InceptionV3().state_dict().items()}
    assert ours == {name: value.shape for name, value in reference.state_dict().items()}


def test_number_of_parameters() -> None:
    """21,785,568 for the features, and a layer of 1,008 logits; torchvision's has more for fewer classes."""
    with torch.device("meta"):
        network = InceptionV3()
    logits = 2048 * 1008 + 1008
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_785_568 + logits


@pytest.mark.parametrize(("height", "width"), [(32, 32), (299, 299), (310, 200)])
def test_features_and_logits_are_torch_fidelitys(
    extractor: InceptionFeatures, reference: nn.Module, height: int, width: int
) -> None:
    x = pictures(height, width)
    features, logits = reference(x)
    ours = extractor(x)
    assert ours.shape == (2, extractor.dimension)
    assert ours.dtype == torch.float32
    assert float(features.std()) > 1  # random weights, but no dead network
    # At 299 pixels noise nearly cancels out, and rounding with it stands out.
    assert error(ours, features) < 5e-5
    assert error(extractor.logits(ours), logits) < 5e-5


def test_grey_is_repeated(extractor: InceptionFeatures, reference: nn.Module) -> None:
    grey = pictures(28, 28, channels=1)
    assert error(extractor(grey), reference(grey.expand(-1, 3, -1, -1))[0]) < 5e-5


def test_folded_network_is_the_unfolded_one_on_clean_fids_pictures(inception_state: State) -> None:
    """By default pictures come to 299 pixels as clean-fid's do: Pillow's bicubic, not rounded, then (x - 128) / 128."""
    x = pictures(64, 48)
    channels = [Image.fromarray(channel.float().numpy()) for channel in x.flatten(0, 1)]
    outputs = [np.asarray(channel.resize((299, 299), Image.Resampling.BICUBIC)) for channel in channels]
    clean = torch.from_numpy(np.stack(outputs)).clamp(0, 255).unflatten(0, (2, 3))
    network = load(InceptionV3, inception_state).eval()
    extractor = InceptionFeatures(inception_state, "random")
    with torch.no_grad():
        assert error(extractor(x), network((clean - 128) / 128)) < 5e-5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in extractor._network.modules())


def test_average_pools_leave_the_border_out_and_the_last_block_takes_the_maximum() -> None:
    network = InceptionV3().eval()
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: seen.update({name: inputs[0]})

    for name in ("Mixed_5b", "Mixed_6e", "Mixed_7b", "Mixed_7c"):
        block = getattr(network, name)
        block.branch_pool.register_forward_hook(keep(name))
        channels = block.branch1x1.conv.in_channels
        with torch.no_grad():
            block(torch.tensor([1.0, 2.0, 3.0]).expand(1, channels, 3, 3))
    for name in ("Mixed_5b", "Mixed_6e", "Mixed_7b"):
        torch.testing.assert_close(seen[name][0, 0], torch.tensor([1.5, 2.0, 2.5]).expand(3, 3))
    assert torch.equal(seen["Mixed_7c"][0, 0], torch.tensor([2.0, 3.0, 3.0]).expand(3, 3))


def test_logits_have_no_bias(extractor: InceptionFeatures, inception_state: State) -> None:
    features = torch.eye(2048)[[0, 7, 2047]]  # one product a logit: nothing to round
    assert extractor.num_logits == 1008
    assert torch.equal(extractor.logits(features), inception_state["fc.weight"].T[[0, 7, 2047]])
    assert not extractor.logits(torch.zeros(1, 2048)).any()
    with pytest.raises(ValueError, match=r"features: expected shape \(N, 2048\), got \(2, 3, 8, 8\)"):
        extractor.logits(pictures(8, 8))


def test_bfloat16_is_near_float32(inception_state: State, extractor: InceptionFeatures) -> None:
    half = InceptionFeatures(inception_state, "random", "tf1-bilinear", "bfloat16")
    x = pictures(32, 32)
    rounded = half(x)
    assert rounded.dtype == torch.float32
    assert 1e-4 < error(rounded, extractor(x)) < 0.1


def test_protocol_names_filter_and_weights(extractor: InceptionFeatures, inception_state: State) -> None:
    expected = {"extractor": "Inception", "weights_sha256": "random", "resolution": 299, "precision": "float32"}
    assert extractor.protocol() == {**expected, "resize": "tf1-bilinear"}
    assert InceptionFeatures(inception_state, "random").protocol() == {**expected, "resize": "bicubic"}


def test_weights_given_are_left_as_they_were_and_no_random_number_is_drawn(inception_state: State) -> None:
    before = copy.deepcopy(inception_state)
    torch.manual_seed(3)
    InceptionFeatures(inception_state, "random", precision="bfloat16")
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))
    assert all(torch.equal(inception_state[name], value) for name, value in before.items())


def test_another_networks_weights_are_refused(inception_state: State) -> None:
    with pytest.raises(RuntimeError, match=r"Missing key.*Mixed_7c"):
        InceptionFeatures({k: v for k, v in inception_state.items() if not k.startswith("Mixed_7c")}, "random")


# Where the weights come from.


def test_a_file_by_hand_makes_the_extractor(inception_state: State, tmp_path: Path, publish: Publish) -> None:
    path = tmp_path / "by_hand.pth"
    publish(inception_state, path)
    extractor = InceptionFeatures.published(weights=path)
    expected = InceptionFeatures(inception_state, "random")
    assert torch.equal(extractor(pictures(32, 32)), expected(pictures(32, 32)))
    assert extractor.weights_sha256 != WEIGHTS_SHA256  # the fixture's, in whose place the published one's is otherwise


def test_a_file_by_hand_with_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "by_hand.pth"
    path.write_bytes(b"other")
    with pytest.raises(
        ValueError, match=r"by_hand\.pth: sha256 d9298a10…, expected 6726825d…; take the file from https"
    ):
        InceptionFeatures.published(weights=path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file; take the file from https"):
        published_weights(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", [WEIGHTS_FILE, "pt_inception-2015-12-05-6726825d.pth"])
def test_what_others_have_downloaded_serves(
    places: tuple[Path, Path], publish: Publish, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hub = places
    hub.mkdir(parents=True)
    publish(SMALL, hub / name)
    assert torch.equal(published_weights()["weight"], SMALL["weight"])


def test_a_download_happens_once_and_is_kept_whole(
    places: tuple[Path, Path], publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = places
    source = tmp_path / "source.pth"
    publish(SMALL, source)
    monkeypatch.setattr("features.inception.WEIGHTS_URL", source.as_uri())
    assert torch.equal(published_weights()["weight"], SMALL["weight"])
    assert [path.name for path in kept.iterdir()] == [WEIGHTS_FILE]
    assert (kept / WEIGHTS_FILE).read_bytes() == source.read_bytes()
    source.unlink()
    assert torch.equal(published_weights()["weight"], SMALL["weight"])


def test_a_damaged_kept_file_is_refused_with_the_remedy(places: tuple[Path, Path], publish: Publish) -> None:
    kept, _ = places
    kept.mkdir(parents=True)
    publish(SMALL, kept / WEIGHTS_FILE)
    with (kept / WEIGHTS_FILE).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=rf"{WEIGHTS_FILE}: sha256 .*, expected .*; delete it to have it downloaded"):
        published_weights()


@contextmanager
def serving(content: bytes, announced: int, status: int = 200) -> Iterator[str]:
    """A server on loopback that promises `announced` bytes and hangs up after `content`; gives its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/inception.pth"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("content", "announced", "status", "kind", "message"),
    [
        (b"other", 5, 200, ValueError, r"inception\.pth: sha256 d9298a10…, expected 6726825d…; put it at .*effnet"),
        (b"oth", 5, 200, FileNotFoundError, r"could not be downloaded \(it ended after 3 of 5 bytes\); put it at"),
        (b"", 0, 404, FileNotFoundError, r"could not be downloaded \(HTTP Error 404: Not Found\); put it at"),
    ],
)
def test_a_failed_download_leaves_nothing(
    places: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    announced: int,
    status: int,
    kind: type[Exception],
    message: str,
) -> None:
    kept, _ = places
    with serving(content, announced, status) as url:
        monkeypatch.setattr("features.inception.WEIGHTS_URL", url)
        with pytest.raises(kind, match=message) as caught:
            published_weights()
    assert "\n" not in str(caught.value)
    assert list(kept.iterdir()) == []


def test_ctrl_c_during_a_download_leaves_nothing(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = places

    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("features.weights.tqdm.update", interrupt)
    with serving(b"other", 5) as url:
        monkeypatch.setattr("features.inception.WEIGHTS_URL", url)
        with pytest.raises(KeyboardInterrupt):
            published_weights()
    assert list(kept.iterdir()) == []


def test_without_a_network_the_line_says_what_to_do(places: tuple[Path, Path]) -> None:
    kept, _ = places
    with pytest.raises(FileNotFoundError) as caught:
        published_weights()
    line = str(caught.value)
    assert line.startswith("http://127.0.0.1:9/inception.pth could not be downloaded (")
    assert line.endswith(
        f"; put it at {kept / WEIGHTS_FILE} by hand, or take the extractor effnet, whose weights come with a package"
    )
    assert "\n" not in line
