// Scores of search results: Sphinx's own numbers, and for a whole page the weights of the words that are looked for.
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  score: ([page, title, anchor, description, score]) => {
    if (anchor || typeof OCCURRENCES === "undefined") return score;
    const number = OCCURRENCES.pages[page];
    const query = new URLSearchParams(window.location.search).get("q") || "";
    const words = splitQuery(query.toLowerCase()).map((word) => new Stemmer().stemWord(word));
    const weights = words.map((word) => (Object.hasOwn(OCCURRENCES.words, word) && OCCURRENCES.words[word][number]) || 0);
    return score + weights.reduce((sum, weight) => sum + weight, 0) / 2;
  },
};
