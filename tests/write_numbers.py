"""After something was measured anew: put its numbers into the texts, by the rules that hold them there.

    python tests/write_numbers.py           # says what it changes

`test_numbers.py` has the rules. What a text makes of its numbers ("more", "half", a sentence's sense) is for whoever runs this to
read: every line that changed is printed.
"""
import test_numbers as rules


def write(path: str) -> list[str]:
    """Write a text's numbers, and return the lines that changed."""
    file, changed = rules.ROOT / path, []
    for words in rules.READ[path]:
        right = [rules.value(hole) for hole in rules.HOLE.findall(words)]
        for found in reversed(rules.places(path, words)):
            if found.groups() != tuple(right):
                text = file.read_text(encoding="utf-8")
                for group in range(len(right), 0, -1):
                    text = text[:found.start(group)] + right[group - 1] + text[found.end(group):]
                file.write_text(text, encoding="utf-8")
                changed.append(f"{path}: {' '.join(found[0].split())[-160:]}\n    -> {', '.join(right)}")
    return changed


def write_claim() -> bool:
    """Write the README's table of the evidence anew, and say whether it changed."""
    file = rules.ROOT / "README.md"
    text = file.read_text(encoding="utf-8")
    new = rules.CLAIM.sub(lambda found: found[1] + rules.claim() + found[3], text)
    file.write_text(new, encoding="utf-8")
    return new != text


if __name__ == "__main__":
    print("README.md: the table of the evidence", "is another one" if write_claim() else "as it was measured")
    for path in rules.READ:
        print("\n".join(write(path)) or f"{path}: as it was measured")
