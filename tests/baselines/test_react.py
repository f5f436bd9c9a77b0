"""ReAct: the model reads what a plain reading of the paper would show it, thoughts stay at home."""

import gymnasium
import pytest
import tokenizers
import torch
from places import SHARED_DATA
from sample_tokenizers import byte_level
from transformers import PreTrainedTokenizerFast

from qsft_lite import envs
from qsft_lite.baselines.react import ReActPolicy
from qsft_lite.baselines.react_data import react_episodes
from qsft_lite.data.transcripts import ContextError, Transcript
from qsft_lite.evaluate import evaluate
from qsft_lite.models import small_model
from qsft_lite.tasks.alfworld.prompts import alfworld_prompts, prompt_for
from qsft_lite.tasks.webshop.prompts import STYLE, webshop_prompt


def single_letters(letters):
    """A tokenizer of single letters: a text and its tokens are one and the same."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", *letters])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    pattern = tokenizers.Regex(r"[\s\S]")
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(pattern, "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


LETTERS = single_letters("abco K.>O\n")
PRINTABLE = single_letters([*map(chr, range(32, 127)), "\n"])
PLAY = {"thought": "a", "max_new_tokens": 6, "max_thoughts": 2}


def random_model(tokenizer, context=2_000, seed=0):
    model = small_model(tokenizer, layers=2, width=16, heads=2, context=context, seed=seed)
    # A head of its own: with tied embeddings the last letter would be said again and again.
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(model.lm_head.weight.shape, generator=generator)
    model.lm_head.weight = torch.nn.Parameter(weight)
    for weight in [*model.model.layers.parameters(), model.get_input_embeddings().weight]:
        weight.data *= 15 if weight.dim() == 2 else 1  # far from uniform, and what was said counts
    return model.eval()


class Scripted(ReActPolicy):
    """It wants the line that script(context) says, and spells "z" where it may not have it."""

    def __init__(self, script, prompt="P\n", tokenizer=PRINTABLE, **options):
        super().__init__(random_model(tokenizer, 20_000), tokenizer, prompt, **options)
        self.script, self.read = script, []

    def _next_log_weights(self, rows, ruled_out):
        weights = torch.zeros(len(rows), len(self.tokenizer))
        for place, row in enumerate(rows):
            text = self.tokenizer.decode(self._ids[row][1:])
            done, mark, line = text.rpartition(self.action)
            if not line:
                self.read.append(text)
            wanted = self.script(done + mark)
            sign = wanted[len(line)] if wanted.startswith(line) and len(line) < 40 else "\n"
            weights[place, self.tokenizer.encode("z", add_special_tokens=False)] = 1
            weights[place, self.tokenizer.encode(sign, add_special_tokens=False)] = 2
            self._lengths[row] = len(self._ids[row])
        return weights.masked_fill(ruled_out, -torch.inf)


class Shouts(gymnasium.Env):
    """Answers an action with itself, twice; ends after four."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return "start\n", {}

    def step(self, action):
        self.steps += 1
        text = action.strip()
        return f"{text} {text}\n", 1.0, self.steps == 4, False, {}


def think_then_act(context):
    """A thought before every second action."""
    acts = context.count("> go")
    thinks = acts % 2 == 0 and not context.endswith("OK.\n>")
    return f" think: of {acts}\n" if thinks else f" go {acts}\n"


# A twin without caches, batches, segments or tokens of its own


@torch.no_grad()
def twin_line(model, text, may_think, longest=PLAY["max_new_tokens"]):
    """What a greedy reader of the whole text writes next, character by character."""
    line = ""
    while not line.endswith("\n"):
        ids = [LETTERS.bos_token_id, *LETTERS.encode(text + line, add_special_tokens=False)]
        logits = model(torch.tensor([ids])).logits[0, -1]
        for token_id in logits.argsort(descending=True).tolist():
            sign = LETTERS.decode([token_id])
            is_thought = (line + sign).strip().startswith("a")
            late = len(line) == longest - 1 and sign != "\n"
            if len(sign) == 1 and not late and (may_think or not is_thought):
                break
        line += sign
    return line


def twin_turn(model, text, thinks):
    """A turn: the lines, and the text with them."""
    lines = []
    while True:
        line = twin_line(model, f"{text}>", thinks and len(lines) < PLAY["max_thoughts"])
        lines.append(line)
        text += f">{line}"
        if not line.strip().startswith("a"):
            return lines, text
        text += "OK.\n"


@pytest.mark.parametrize("thinks", [True, False])
def test_it_plays_as_a_naive_twin_does(thinks):
    model = random_model(LETTERS, seed=7)
    policy = ReActPolicy(model, LETTERS, "boo\n", thinks=thinks, **PLAY)
    starts = ["a\n", "c\n", "co b\n", "OK.\n"]
    games = [[(start, False)] for start in starts]
    texts = [f"boo\n{start}" for start in starts]
    thoughts = 0
    for turn in range(6):
        actions = policy.act([Transcript(game) for game in games])
        for number, action in enumerate(actions):
            lines, texts[number] = twin_turn(model, texts[number], thinks)
            assert action == lines[-1].strip() + "\n"
            games[number].append((action, True))
            played = "".join(text for text, _ in games[number])
            assert policy.thoughts(played) == [line.strip() + "\n" for line in lines[:-1]]
            thoughts += len(lines) - 1
            answer = f"{'abc'[turn % 3] * (number + 1)} \n"
            texts[number] += answer
            games[number].append((answer, False))
            seen = policy.context(Transcript(games[number]))
            assert "".join(text for text, _ in seen) == f"{texts[number]}>"
    assert (thoughts > 3) == thinks
    # Each token of a game is read once: the text, and the token that it starts with.
    whole = sum(len(text) + 1 for text in texts) - sum(len(game[-1][0]) for game in games)
    assert policy.transcript_tokens == whole


def test_a_batch_plays_as_its_games_do_one_by_one():
    env = Shouts()
    model = random_model(PRINTABLE, seed=3)
    policy = ReActPolicy(model, PRINTABLE, lambda first: f"{first} x\n", **PLAY)
    options = {"batch": 5, "options": [{}] * 5}
    together = evaluate(policy, env, 5, 1, **options).transcripts
    assert together == evaluate(policy, env, 5, 1, **{**options, "batch": 1}).transcripts


def test_a_sample_has_the_probabilities_of_lines_that_are_allowed():
    """Without thoughts a first letter "a" is left out, and the others keep their proportions."""
    model = random_model(LETTERS)
    play = {**PLAY, "thinks": False, "greedy": False, "temperature": 8.0, "max_new_tokens": 2}
    policy = ReActPolicy(model, LETTERS, "", **play)
    counts = dict.fromkeys("bcoOK.>", 0)
    for action in policy.act(["c\n"] * 4_000):
        if action[0] in counts:
            counts[action[0]] += 1
    ids = [LETTERS.bos_token_id, *LETTERS.encode("c\n>", add_special_tokens=False)]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1] / 8.0
    first = {sign: logits[LETTERS.encode(sign, add_special_tokens=False)[0]] for sign in counts}
    weights = {sign: float(one.exp()) for sign, one in first.items()}
    total, drawn = sum(weights.values()), sum(counts.values())
    for sign, count in counts.items():
        # A space may come before the letter; its share is too small to matter here.
        assert count / drawn == pytest.approx(weights[sign] / total, abs=0.05)


# Thoughts


def test_thoughts_never_reach_the_environment():
    policy = Scripted(think_then_act)
    [row] = evaluate(policy, Shouts(), 1, 0).transcripts
    assert row["text"][1::2] == ["go 0\n", "go 1\n", "go 2\n", "go 3\n"]
    assert not any("think" in text or "OK" in text for text in row["text"])
    assert policy.read[-1] == (
        "P\nstart\n> think: of 0\nOK.\n> go 0\ngo 0 go 0\n> go 1\ngo 1 go 1\n"
        "> think: of 2\nOK.\n> go 2\ngo 2 go 2\n>"
    )


def test_an_action_is_forced_after_the_last_thought():
    policy = Scripted(lambda context: " think: more\n", max_thoughts=2)
    [action] = policy.act(["start\n"])
    assert policy.thoughts("start\n" + action) == ["think: more\n"] * 2
    assert action == "thinkz\n"  # "think:" was refused


def test_act_only_never_thinks():
    policy = Scripted(lambda context: " think: more\n", thinks=False)
    assert policy.act(["start\n"]) == ["thinkz\n"]
    assert policy.read == ["P\nstart\n>"]


def test_the_marks_of_webshop():
    script = [" think[a mug]\n", " search[mug]\n", " click[buy now]\n"]
    policy = Scripted(lambda context: script[context.count("Action:") - 1], **STYLE)
    history = Transcript([("page 1\n", False)])
    [action] = policy.act([history])
    history = Transcript([*history.segments, (action, True), ("page 2\n", False)])
    assert (action, policy.act([history])) == ("search[mug]\n", ["click[buy now]\n"])
    assert policy.read[-1] == (
        "P\npage 1\n\nAction: think[a mug]\nObservation: OK.\n\nAction: search[mug]\n"
        "Observation: page 2\n\nAction:"
    )


def test_a_plain_text_is_read_as_its_transcript():
    policy = Scripted(think_then_act)
    [action] = policy.act(["two\nlines\n"])
    text = f"two\nlines\n{action}more\n\nof it\n"
    segments = [("two\nlines\n", False), (action, True), ("more\n\nof it\n", False)]
    assert policy.context(text) == policy.context(Transcript(segments)) == policy.context(segments)
    seen = "".join(part for part, _ in policy.context(text))
    assert seen == "P\ntwo\nlines\n> think: of 0\nOK.\n> go 0\nmore\n\nof it\n>"
    policy.reset(0)  # now it knows neither the thought nor where the action was
    assert policy.context(text) == [(f"P\n{text}>", False)]


# Context, odd texts


def test_a_long_context_loses_its_oldest_steps():
    texts = ["first\n", "aaaa\n", "one\n", "bbbbbbbb\n", "two\n", "cc\n", "three\n"]
    history = Transcript((text, place % 2 == 1) for place, text in enumerate(texts))
    steps = ["> aaaa\none\n", "> bbbbbbbb\ntwo\n", "> cc\nthree\n"]
    contexts = ["P\nfirst\n" + "".join(steps[dropped:]) + ">" for dropped in range(3)]
    sizes = [len(context) + 1 + 10 for context in contexts]  # a start, and a line of 10 tokens
    model, seen = random_model(PRINTABLE), set()
    for room in range(sizes[2] - 3, sizes[0] + 3):
        policy = ReActPolicy(model, PRINTABLE, "P\n", thinks=False, max_new_tokens=10, context=room)
        fitting = [text for text, size in zip(contexts, sizes, strict=True) if size <= room]
        seen.add(len(fitting))
        if fitting:
            assert "".join(text for text, _ in policy.context(history)) == fitting[0]
            assert policy.act([history])
            continue
        with pytest.raises(ContextError, match="the context has room for") as error:
            policy.act([history])
        assert error.value.histories[0] is history
    assert seen == {0, 1, 2, 3}


def test_a_game_beyond_the_context_goes_on_without_its_oldest_steps():
    model = random_model(PRINTABLE, context=80)
    policy = Scripted(think_then_act, max_thoughts=1, max_new_tokens=20, context=90)
    played = evaluate(policy, Shouts(), 1, 0)
    assert played.lengths.tolist() == [4] and played.cut_off == 0
    assert max(map(len, policy.read)) + 1 <= 90 - 20
    assert policy.read[0] == "P\nstart\n>"
    assert policy.read[-1].startswith("P\nstart\n> ") and policy.read[-1].count("> go") == 1
    long = ReActPolicy(model, PRINTABLE, "P" * 60, thinks=False, max_new_tokens=5)
    played = evaluate(long, Shouts(), 2, 0)
    assert played.cut_off == 2 or played.lengths.tolist() == [4, 4]


@pytest.mark.parametrize("line", ["\n", "   \n", " \n"])
@pytest.mark.parametrize("task", ["alfworld", "webshop"])
def test_an_empty_line_is_an_invalid_action(line, task):
    options = {"products": 150} if task == "webshop" else {}
    env = envs.make(task, **options)
    text, _ = env.reset(seed=0)
    policy = Scripted(lambda context: line)
    [action] = policy.act([text])
    assert action == "\n"
    assert env.step(action)[-1]["valid"] is False


def test_texts_of_all_the_world_are_read_and_written():
    texts = ["日本の壺 — é\u2028ñ 🙂 </s><|im_end|>\n", "Ω\r\n", "🙂🙂\x85\n"]
    tokenizer = byte_level(texts)
    model = random_model(tokenizer, seed=5)
    policy = ReActPolicy(
        model, tokenizer, texts[0] * 3, thought="🙂", greedy=False, temperature=9.0
    )
    games = [[(text, False)] for text in texts]
    for _ in range(3):
        for game, action in zip(games, policy.act([Transcript(g) for g in games]), strict=True):
            assert action.endswith("\n") and "\n" not in action[:-1]
            assert not action.strip().startswith("🙂")
            game += [(action, True), (texts[1], False)]
    seen = "".join(text for text, _ in policy.context(Transcript(games[0])))
    assert seen.startswith(texts[0] * 4) and seen.endswith(f"{texts[1]}>")


def test_settings_out_of_range_are_refused():
    model = random_model(PRINTABLE)
    for wrong, message in [
        ({"max_thoughts": 0}, "max_thoughts must be at least 1"),
        ({"thought": " "}, "thought must be"),
        ({"context": 0}, "context must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            ReActPolicy(model, PRINTABLE, "", **wrong)
    with pytest.raises(TypeError, match="act takes a list of histories"):
        ReActPolicy(model, PRINTABLE, "").act("start\n")
    assert ReActPolicy(model, PRINTABLE, "").act([]) == []


# Data


def test_episodes_without_thoughts_with_them_as_states_and_as_actions():
    rows = {
        how: react_episodes(Scripted(think_then_act), Shouts(), 2, 0, thoughts=how)
        for how in (None, "state", "action")
    }
    plain, state, action = (rows[how][1] for how in rows)
    assert plain == evaluate(Scripted(think_then_act), Shouts(), 2, 0).transcripts[1]
    assert state["text"][:3] == ["start\nthink: of 0\n", "go 0\n", "go 0 go 0\n"]
    assert {**state, "text": plain["text"]} == plain
    assert action["text"][:5] == ["start\n", "think: of 0\n", "OK.\n", "go 0\n", "go 0 go 0\n"]
    assert action["is_action"][:5] == [False, True, False, True, False]
    assert action["reward"][:5] == [0, 0, 0, 1, 0]
    assert sum(action["reward"]) == 4 and all(row["done"] for row in rows["action"])
    with pytest.raises(ValueError, match='thoughts must be "state", "action" or None'):
        react_episodes(Scripted(think_then_act), Shouts(), 1, 0, thoughts="both")


# The tasks' prompts


@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["ours", "react"])
def test_it_plays_both_tasks_by_their_prompts(thinks, own):
    folder = SHARED_DATA / "react"
    if not own and not folder.is_dir():
        pytest.skip("ReAct's prompts are not in ../shared/data/react")
    paths = {} if own else {"path": folder / "alfworld_3prompts.json"}
    prompts = alfworld_prompts(**paths, thinks=thinks)
    line = " think: hm\n", " go to desk 1\n"
    policy = Scripted(
        lambda context: line[not thinks or context.endswith("OK.\n>")],
        prompt_for(prompts),
        thinks=thinks,
    )
    env = envs.make("alfworld", split="unseen", max_steps=2)
    options = [{"game": f"unseen/{number}"} for number in range(3)]
    played = evaluate(policy, env, 3, 0, options=options)
    assert all(row["text"][1::2] == ["go to desk 1\n"] * 2 for row in played.transcripts)
    tasks = {prompts[env.reset(options=one)[1]["task_type"]] for one in options}
    assert {text for text in prompts.values() if any(text in read for read in policy.read)} == tasks

    paths = {} if own else {"path": folder / "webshop_prompts.json"}
    prompt = webshop_prompt(**paths, thinks=thinks)
    policy = Scripted(lambda context: " search[mug]\n", prompt, thinks=thinks, **STYLE)
    played = evaluate(policy, envs.make("webshop", products=150, max_steps=2), 1, 0)
    assert played.transcripts[0]["text"][1::2] == ["search[mug]\n"] * 2
    assert policy.read[-1].startswith(prompt + played.transcripts[0]["text"][0])
