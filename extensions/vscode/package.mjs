// Packs the extension for a platform, with that platform's mirrord inside:
// node package.mjs linux-x64 OUT.vsix. The binaries must lie in bin/.
import { execFileSync } from 'node:child_process';
import { copyFileSync } from 'node:fs';

const [platform, out] = process.argv.slice(2);
if (!platform || !out) {
	console.error('usage: node package.mjs PLATFORM OUT.vsix');
	process.exit(2);
}
copyFileSync('../../LICENSE', 'LICENSE');
execFileSync('npx', ['vsce', 'package', '--no-dependencies', '--target', platform, '--baseContentUrl', 'https://example.invalid/', '--allow-missing-repository', '-o', out], { stdio: 'inherit' });
