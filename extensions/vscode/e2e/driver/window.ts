// A window of the workbench, and what a user does in it. Selectors are those of
// Code 1.139; each part of the workbench is a class of its own.

import * as fs from 'node:fs';
import * as path from 'node:path';
import type { Locator, Page } from 'playwright-core';

import { Debugging } from './debugging.ts';
import { Inside } from './inside.ts';
import { Notifications } from './notifications.ts';
import { QuickPick } from './quickpick.ts';
import { Terminal } from './terminal.ts';
import { Tree } from './tree.ts';
import { patience, until } from './wait.ts';

const shots = path.join(import.meta.dirname, '../../../../bin/vscode-shots');

/** Themes that a window can be asked for, and how it shows that it has one. */
const themes = {
	'light': ['Light 2026', 'vs'],
	'dark': ['Dark 2026', 'vs-dark'],
	'high contrast': ['Default High Contrast', 'hc-black'],
	'high contrast light': ['Default High Contrast Light', 'hc-light'],
} as const;

export type Theme = keyof typeof themes;

export class Window {
	readonly page: Page;
	readonly folder: string;
	readonly inside: Inside;
	readonly quickPick: QuickPick;
	readonly debugging: Debugging;
	readonly terminal: Terminal;
	readonly notifications: Notifications;
	/** The page's errors, as its console had them. */
	readonly errors: string[] = [];

	constructor(page: Page, folder: string, runtimeDir: string) {
		this.page = page;
		this.folder = folder;
		this.inside = new Inside(runtimeDir, folder);
		this.quickPick = new QuickPick(page);
		this.debugging = new Debugging(this);
		this.terminal = new Terminal(this);
		this.notifications = new Notifications(page);
		page.setDefaultTimeout(patience);
		page.on('console', m => m.type() === 'error' && this.errors.push(m.text()));
	}

	/** Waits for the workbench and its extension host. */
	async ready(): Promise<void> {
		await this.page.locator('.monaco-workbench').waitFor();
		await this.inside.ready();
	}

	async shot(name: string): Promise<void> {
		fs.mkdirSync(shots, { recursive: true });
		await this.page.screenshot({ path: path.join(shots, name + '.png'), animations: 'disabled' });
	}

	async press(...keys: string[]): Promise<void> {
		for (const k of keys) {
			await this.page.keyboard.press(k);
		}
	}

	/** An item of the status bar, by publisher.name.id. */
	statusItem(id: string): Locator {
		return this.page.locator(`.statusbar [id="${id}"]`);
	}

	/** Waits until an item of the status bar shows a text, and returns all of it. */
	async statusShows(id: string, text: RegExp): Promise<string> {
		const item = this.statusItem(id);
		await item.waitFor();
		let shown = '';
		try {
			return await until(`${text} in the status bar`, async () => text.test(shown = (await item.innerText()).trim()) && shown);
		} catch (err) {
			throw new Error(`${(err as Error).message}; it is ${JSON.stringify(shown)}`);
		}
	}

	/** Runs a command of the palette by its whole title. */
	async command(title: string): Promise<void> {
		await this.press('F1');
		await this.quickPick.filter('>' + title);
		await this.quickPick.choose(title);
	}

	/** Runs a command of the palette, without the mouse. */
	async commandByKeyboard(title: string): Promise<void> {
		await this.press('F1');
		await this.page.keyboard.type(title);
		await this.quickPick.chooseByKeyboard(title);
	}

	/** Runs a task of the folder by its label. */
	async runTask(label: string): Promise<void> {
		await this.command('Tasks: Run Task');
		await this.quickPick.choose(label);
	}

	/** Opens a file of the folder. */
	async openFile(name: string): Promise<void> {
		await this.press('Control+p');
		await this.quickPick.filter(name);
		await this.quickPick.choose(name); // not Enter: the list may still be of what was opened last
		await this.tab(name).waitFor();
		await this.page.locator('.editor-instance .view-line').first().waitFor();
	}

	/** The tab in front, if it is of this name. */
	tab(name: string): Locator {
		return this.page.locator(`.tab.active[data-resource-name="${path.basename(name)}"]`);
	}

	/** What the editor in front shows of its text, a line each. */
	async editorText(): Promise<string> {
		const lines = this.page.locator('.editor-group-container.active .editor-instance .view-line');
		await lines.first().waitFor();
		const top = await lines.evaluateAll(all => all
			.map(l => ({ top: (l as unknown as { offsetTop: number }).offsetTop, text: l.textContent ?? '' }))
			.sort((a, b) => a.top - b.top).map(l => l.text));
		return top.join('\n').replaceAll('\u00a0', ' ');
	}

	/** A tree of a view in the side bar or panel, by its title. */
	tree(title: string): Tree {
		return new Tree(this.page, title);
	}

	/** Shows a view container by the activity bar. */
	async sideBar(title: string): Promise<void> {
		const tab = this.page.locator('.activitybar .action-item', { has: this.page.locator(`.action-label[aria-label^="${title}"]`) });
		if (await tab.getAttribute('aria-selected') !== 'true' && !(await tab.getAttribute('class'))?.includes('checked')) {
			await tab.click();
		}
		await this.page.locator('.sidebar .title-label', { hasText: new RegExp(title.slice(0, 6), 'i') }).waitFor(); // it may be cut
	}

	/** What the Problems panel lists, a row each. */
	async problems(): Promise<string[]> {
		const panel = this.page.locator('.markers-panel');
		if (!await panel.isVisible()) {
			await this.command('Problems: Focus on Problems View');
			await panel.waitFor();
		}
		const rows = await panel.locator('.monaco-list-row').allInnerTexts();
		return rows.map(r => r.replaceAll(/\s+/g, ' ').trim());
	}

	/** Changes the theme, and waits until it shows. */
	async theme(theme: Theme): Promise<void> {
		const [name, mark] = themes[theme];
		await this.inside.settings({ 'workbench.colorTheme': name });
		await this.page.locator(`.monaco-workbench.${mark}`).waitFor();
	}

	async reload(): Promise<void> {
		const loaded = this.page.waitForEvent('load');
		await this.command('Developer: Reload Window');
		await loaded;
		await this.ready();
	}

	/** Ends what a scenario that failed has left, for the next. */
	async tidy(): Promise<void> {
		if (await this.dialog.count() > 0) {
			await this.press('Escape');
		}
		await this.inside.command('workbench.action.debug.stop');
		await this.inside.command('workbench.action.closeQuickOpen');
		await this.inside.command('notifications.clearAll');
	}

	/** The dialog that blocks the window. */
	get dialog(): Locator {
		return this.page.locator('.monaco-dialog-box:visible');
	}
}
