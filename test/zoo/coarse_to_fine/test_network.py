"""What must hold for the network whatever it has learnt."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402
from zoo.coarse_to_fine.nets import CONFIGS, image, network, words  # noqa: E402

from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network_inputs import PADDED_LOGIT  # noqa: E402

each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@each_config
@pytest.mark.parametrize(("h", "w", "categories"), [(5, 7, 1), (3, 3, 4), (1, 2, 2)])
def test_any_grid_and_any_number_of_categories(
    config: NetworkConfig, h: int, w: int, categories: int
) -> None:
    with torch.no_grad():
        output = network(config)(image(config, h, w, 2), words(config, categories, 2))
    s = 2**config.levels
    assert output.logits.shape == (2, categories, s * h, s * w)
    assert output.logits.isfinite().all()
    assert output.cosines.shape == (2, categories, h, w)
    assert output.patches.shape == (2, h, w, config.dim)
    assert output.words.shape == (2, categories, config.dim)


@each_config
def test_permuting_categories_permutes_the_answer(config: NetworkConfig) -> None:
    net, features, texts = network(config), image(config, 4, 5), words(config, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        straight, permuted = net(features, texts).logits, net(features, texts[:, order]).logits
    torch.testing.assert_close(straight[:, order], permuted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(straight, permuted, atol=1e-2)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=5, deadline=None)
@given(real=st.lists(st.booleans(), min_size=1, max_size=4).filter(any), seed=st.integers(0, 99))
def test_padding_changes_nothing(name: str, real: list[bool], seed: int) -> None:
    config = CONFIGS[name]
    net, mask = network(config), torch.tensor([real])
    torch.manual_seed(seed)
    features, texts = image(config, 3, 4), words(config, len(real))
    with torch.no_grad():
        padded = net(features, texts, mask).logits
        alone = net(features, texts[mask][None]).logits
    torch.testing.assert_close(padded[mask], alone[0], atol=1e-4, rtol=1e-4)
    assert (padded[~mask] == PADDED_LOGIT).all()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    config = CONFIGS["full"]
    net = network(config)
    features, texts = image(config, 4, 5, batch=2), words(config, 3, batch=2)
    first = type(features)(
        features.patches[:1],
        features.image[:1],
        tuple(x[:1] for x in features.shallow),
        features.attention[:1],
    )
    with torch.no_grad():
        torch.testing.assert_close(
            net(features, texts).logits[:1], net(first, texts[:1]).logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    config = CONFIGS[name]
    net = network(config).train()
    net(image(config, 4, 5, 2), words(config, 3, 2)).logits.logsumexp(1).mean().backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    broken = [n for n, p in net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert (dead, broken) == ([], [])


@each_config
def test_a_fresh_network_is_the_scaled_cosine_of_the_mean_prompt(config: NetworkConfig) -> None:
    features, texts = image(config, 4, 5), words(config, 3)
    with torch.no_grad():
        output = CoarseToFine(config)(features, texts)
    mean = normalize(texts.mean(2), dim=-1)
    expected = config.logit_scale * torch.einsum("byxd,bmd->bmyx", features.patches, mean)
    # P2Tformer starts as almost nothing, not as nothing.
    torch.testing.assert_close(output.cosines, expected, atol=0.05 if config.pixel_to_text else 1e-4, rtol=0)
    start = torch.nn.functional.interpolate(
        output.cosines, output.logits.shape[2:], mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(output.logits, start)


def test_bfloat16_training_keeps_float32_logits_and_learns() -> None:
    config = CONFIGS["embedded"]
    net = CoarseToFine(config)
    features, texts = image(config, 5, 6, 2), words(config, 3, 2)
    target = torch.randint(0, 3, (2, 5, 6))
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            output = net(features, texts)
        assert output.logits.dtype == output.cosines.dtype == torch.float32
        loss = torch.nn.functional.cross_entropy(output.logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("part", ["cross_attention", "class_layers", "category_attention", "spatial"])
def test_each_part_switches_off(part: str) -> None:
    fields = {**vars(CONFIGS["embedded"]), "class_layers": 2}
    fields[part] = "none" if isinstance(fields[part], str) else type(fields[part])(0)
    config = NetworkConfig(**fields)
    names = [name for name, _ in CoarseToFine(config).named_parameters()]
    assert not any(name.startswith(part + ".") for name in names)
    with torch.no_grad():
        assert network(config)(image(config, 3, 4), words(config, 2)).logits.shape == (1, 2, 3, 4)


def test_words_of_another_shape_are_refused() -> None:
    config = CONFIGS["embedded"]
    net = CoarseToFine(config)
    with pytest.raises(ValueError, match=r"expected words of shape \(B, M, 2, 16\), got \(1, 3, 1, 16\)"):
        net(image(config, 3, 4), words(config, 3)[:, :, :1])


def test_missing_features_are_refused() -> None:
    config = CONFIGS["full"]
    net, features = CoarseToFine(config), image(config, 3, 4)
    without = type(features)(features.patches, features.image, features.shallow)
    with pytest.raises(ValueError, match="expected attention of 3 heads, got None"):
        net(without, words(config, 2))
    with pytest.raises(ValueError, match="expected 2 shallow features, got 0"):
        net(type(features)(features.patches, features.image), words(config, 2))


def test_each_layer_of_the_decoder_sees_the_encoder() -> None:
    """Earlier layers and the class token's attention reach queries and keys of every layer's pair."""
    config = CONFIGS["full"]
    net, features, texts = network(config), image(config, 4, 5), words(config, 3)
    assert len(net.spatial) == len(net.doublings) == config.levels == 2
    seen = []
    for pair in net.spatial:
        pair.register_forward_hook(lambda _, given, out: seen.append((given[0].shape, out)))
    with torch.no_grad():
        net(features, texts)
        before = [out for _, out in seen]
        assert [tuple(shape) for shape, _ in seen] == [(1, 4, 5, 3, 8), (1, 8, 10, 3, 8)]
        for part in net.spatial[1].attentions:
            part.from_context.weight.zero_()
        net(features, texts)
    assert torch.equal(seen[2][1], before[0]) and not torch.allclose(seen[3][1], before[1], atol=1e-4)
