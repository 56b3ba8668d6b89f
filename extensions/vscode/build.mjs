// Bundles the extension into dist/, or with --test its tests into dist-test/.
import * as esbuild from 'esbuild';
import { copyFileSync, mkdirSync, readdirSync } from 'node:fs';

const test = process.argv.includes('--test');
await esbuild.build({
	entryPoints: test ? readdirSync('test').filter((f) => f.endsWith('.test.ts')).map((f) => `test/${f}`) : ['src/extension.ts'],
	outdir: test ? 'dist-test' : 'dist',
	bundle: true,
	platform: 'node',
	format: 'cjs',
	target: 'node20',
	...(test ? { alias: { vscode: './test/vscode.ts' } } : { external: ['vscode'] }),
	minify: !test,
	sourcemap: test ? 'inline' : false,
});
mkdirSync('dist', { recursive: true });
copyFileSync('../../daemon/config/schema.json', 'dist/schema.json');
