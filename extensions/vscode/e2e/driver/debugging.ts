import * as fs from 'node:fs';
import * as path from 'node:path';
import type { Locator } from 'playwright-core';

import { until } from './wait.ts';
import type { Window } from './window.ts';

/** Breakpoints, and what a debug session shows. */
export class Debugging {
	private readonly window: Window;

	constructor(window: Window) {
		this.window = window;
	}

	private get page() {
		return this.window.page;
	}

	get toolbar(): Locator {
		return this.page.locator('.debug-toolbar:visible');
	}

	get breakpoints(): Locator {
		return this.page.locator('.editor-instance .glyph-margin-widgets .codicon-debug-breakpoint');
	}

	/** Opens a file of the folder and clicks beside its line with these words, which has no breakpoint. */
	async breakAt(file: string, words: string): Promise<void> {
		const line = fs.readFileSync(path.join(this.window.folder, file), 'utf8').split('\n').findIndex(l => l.includes(words)) + 1;
		if (line === 0) {
			throw new Error(`${file} has no line with ${words}`);
		}
		await this.window.openFile(file);
		await this.window.press('Control+g');
		await this.window.quickPick.filter(`:${line}`);
		await this.window.press('Enter');
		await this.page.locator('.editor-instance .line-numbers.active-line-number').getByText(String(line), { exact: true }).waitFor();
		const before = await this.breakpoints.count();
		const number = this.page.locator('.editor-instance .margin-view-overlays .line-numbers').filter({ hasText: new RegExp(`^${line}$`) }).first();
		const at = await number.boundingBox();
		const margin = await this.page.locator('.editor-instance .margin').first().boundingBox();
		if (!at || !margin) {
			throw new Error(`line ${line} is not in view`);
		}
		await this.page.mouse.click(margin.x + 8, at.y + at.height / 2);
		await until('a breakpoint', async () => await this.breakpoints.count() === before + 1);
	}

	async clearBreakpoints(): Promise<void> {
		await this.window.inside.command('workbench.debug.viewlet.action.removeAllBreakpoints');
	}

	/** Starts a configuration of launch.json by its name, and makes it F5's. */
	async start(name: string): Promise<void> {
		await this.window.press('F1');
		await this.window.quickPick.filter('debug ' + name);
		await this.window.quickPick.choose(name);
	}

	/**
	 * Starts F5's configuration without debugging, up to a picker. While VS Code
	 * still ends the launch before, it does not hear the keys.
	 */
	async startWithout(): Promise<void> {
		await until('a picker', async () => {
			await this.window.press('Control+F5');
			return this.window.quickPick.box.waitFor({ timeout: 2000 }).then(() => true, () => false);
		});
	}

	/** Waits until a debuggee has stopped and its line is shown. */
	async paused(): Promise<void> {
		await this.toolbar.locator('.codicon-debug-continue').first().waitFor();
		await this.page.locator('.editor-instance .debug-top-stack-frame-line').first().waitFor();
	}

	async continue(): Promise<void> {
		await this.toolbar.locator('.codicon-debug-continue').first().click();
	}

	async stop(): Promise<void> {
		await this.window.press('Shift+F5');
		await this.ended();
	}

	/** Restarts a debuggee that runs. */
	async restartRunning(): Promise<void> {
		await this.clearConsole();
		await this.window.press('Control+Shift+F5');
	}

	async ended(): Promise<void> {
		await this.toolbar.waitFor({ state: 'hidden' });
	}

	/** The rows of a scope whose title begins so, as "name: value"; it is expanded first. */
	async variables(scope: string): Promise<string[]> {
		const view = this.page.locator('.debug-variables');
		const row = view.locator('.monaco-list-row', { hasText: new RegExp('^' + scope) }).first();
		await row.waitFor();
		if (await row.getAttribute('aria-expanded') === 'false') {
			await row.locator('.monaco-tl-twistie').click();
		}
		await view.locator('.monaco-list-row .expression .name').first().waitFor();
		return (await view.locator('.monaco-list-row').allInnerTexts()).map(t => t.replaceAll(/\s+/g, ' ').trim());
	}

	/** The frames of the call stack, a row each, threads and sessions included. */
	async callStack(): Promise<string[]> {
		const rows = await this.page.locator('.debug-call-stack .monaco-list-row').allInnerTexts();
		return rows.map(t => t.replaceAll(/\s+/g, ' ').trim());
	}

	/** What the debug console has. */
	async console(): Promise<string> {
		return (await this.page.locator('.repl .monaco-list-row').allInnerTexts()).join('\n');
	}

	async prints(text: RegExp): Promise<string> {
		let now = '';
		try {
			return await until(`${text} in the debug console`, async () => text.test(now = await this.console()) && now);
		} catch (err) {
			throw new Error(`${(err as Error).message}; it has ${JSON.stringify(now)}`);
		}
	}

	async clearConsole(): Promise<void> {
		await this.window.inside.command('workbench.debug.panel.action.clearReplAction');
	}

	/** Evaluates in the debug console. */
	async evaluate(expression: string): Promise<void> {
		const input = this.page.locator('.repl-input-wrapper .monaco-editor').first();
		await input.click();
		await this.page.keyboard.type(expression);
		await this.page.keyboard.press('Enter');
	}
}
