// Text to token ids and back, as tinystories/tokenizer.py has it.

const utf8 = new TextEncoder();

/** The text of UTF-8 bytes; what is no UTF-8 becomes U+FFFD. */
function decodeUtf8(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

/** The bytes of a base64 text. */
function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

class Tokenizer {
  /**
   * pattern: a regular expression whose matches are the words that merging stays within; null in
   *   a vocabulary of characters.
   * tokens: the bytes of every id but end of text, in base64; the position is rank and id.
   * end_of_text: the id that ends a story, or null. first_id: the id before a text.
   */
  constructor({ pattern, tokens, end_of_text, first_id }) {
    this.pattern = pattern && new RegExp(pattern, "gu");
    this.endOfText = end_of_text;
    this.firstId = first_id;
    this.bytes = tokens.map(decodeBase64);
    this.ranks = new Map(tokens.map((token, rank) => [atob(token), rank])); // by binary strings
  }

  /** The ids of a text; null where a vocabulary of characters lacks one of them. */
  encode(text) {
    text = decodeUtf8(utf8.encode(text)); // lone surrogates become U+FFFD
    const words = this.pattern ? text.match(this.pattern) ?? [] : Array.from(text);
    const ids = words.flatMap((word) => this.merge(utf8.encode(word)));
    return ids.includes(undefined) ? null : ids;
  }

  /** Byte-pair encoding of one word: the pair with the lowest rank becomes one token, again. */
  merge(word) {
    const parts = Array.from(word, (byte) => String.fromCharCode(byte));
    const whole = this.ranks.get(parts.join(""));
    if (whole !== undefined || !this.pattern) return [whole];
    for (;;) {
      let [lowest, at] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(parts[i] + parts[i + 1]);
        if (rank < lowest) [lowest, at] = [rank, i];
      }
      if (at < 0) return parts.map((part) => this.ranks.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  /** The text of some ids, decoded together: a character may be spread over several. */
  decode(ids) {
    return decodeUtf8(Uint8Array.from(ids.flatMap((id) => Array.from(this.bytes[id] ?? []))));
  }
}
