/** A command line that means what it says, whatever names it has in it; null when a name cannot be typed. */
export function commandLine(...words: string[]): string | null {
  // Anything that a terminal would act on has no place in what is pasted there.
  if (words.some((word) => /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(word))) return null;
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) && !word.startsWith("=") ? word : `'${word.replaceAll("'", `'\\''`)}'`)).join(" ");
}
